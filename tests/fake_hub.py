"""A hub cache as huggingface_hub lays it out, holding several commits of one model."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

ID = "org/tiny"
OLD, NEW = "a" * 40, "b" * 40
"""Commits; the branch `main` is at the newer one, the tag `v1` at the older one."""


def make_hub(cache: Path, revisions: Mapping[str, Callable[[Path], object]]) -> Path:
    """Write the cache; each revision is a commit and what fills its directory. Returns the folder of the snapshots."""
    repository = cache / f"models--{ID.replace('/', '--')}"
    (repository / "blobs").mkdir(parents=True)
    (repository / "refs").mkdir()
    for commit, fill in revisions.items():
        made, snapshot = cache / "made", repository / "snapshots" / commit
        fill(made)
        snapshot.mkdir(parents=True)
        for path in made.iterdir():
            path.rename(repository / "blobs" / f"{commit}-{path.name}")
            (snapshot / path.name).symlink_to(Path("../../blobs") / f"{commit}-{path.name}")
        shutil.rmtree(made)
    (repository / "refs" / "main").write_text(NEW)
    (repository / "refs" / "v1").write_text(OLD)
    return repository / "snapshots"
