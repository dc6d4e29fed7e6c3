"""The run directory: stages that are skipped when nothing they depend on changed, and never half-written.

Knows nothing of models. A stage is a name, the values it depends on (hashed), the path it writes, and the work. Its
output is built beside its final place and renamed when complete; `state.json` records the hash of the inputs, of the
output and of the files that the work itself opened, so that a resumed run redoes exactly the stages whose inputs
changed or whose output is gone or altered. The record is sealed: damaged, it is named and believed no longer.
One process at a time: the directory is locked.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from evals.progress import stage
from prune.errors import PruneError, UsageError
from prune.files import (
    claim,
    read_sealed,
    sha256_file,
    sha256_json,
    sha256_tree,
    staged_directory,
    utc,
    write_sealed,
    write_text,
)

log = logging.getLogger("prune")
FIRST_FILES = (".lock", ".state.json.partial")
"""What a run killed before its first state leaves; a directory with nothing else is as good as empty."""
LEFTOVERS = (".*.partial", ".*.old")
"""What a run killed while it wrote, or while it removed, leaves anywhere below."""
STATE = "state.json"
RECIPE = "recipe.yaml"

Work = Callable[[Path], Mapping[str, str] | None]
"""Writes a stage's output at the path; may return the files that it read beside the stage's inputs, path -> SHA-256."""


class RunDirectory:
    """A locked run directory.

    Attributes:
        root: the directory.
        redone: names of the stages that did work in this process, in order.
        kept: names of the stages whose earlier result was still valid.
    """

    def __init__(self, root: Path, *, resume: bool, guard: Callable[[], None] = lambda: None) -> None:
        """Open or create.

        Args:
            root: the directory.
            resume: go on with what it holds.
            guard: called before and after the work of every stage; raises when what stages read is no longer the same,
                and the stage is not recorded.

        Raises:
            UsageError: the directory is in use without `resume`, or holds something else.
            PruneError: another process runs in it.
        """
        self.root = root
        self._guard = guard
        self.redone: list[str] = []
        self.kept: list[str] = []
        existing = root.is_dir() and any(path.name not in FIRST_FILES for path in root.iterdir())
        if root.is_file():
            raise UsageError(f"{root} is a file: give -o a directory")
        # Without its state, a run is known by its recipe: that is how all stages are done again.
        if existing and not (root / STATE).exists() and not (resume and (root / RECIPE).is_file()):
            raise UsageError(f"{root} is not empty and holds no run: give -o a new directory")
        if existing and not resume:
            raise UsageError(f"{root} already holds a run: add --resume to go on with it, or give -o a new directory")
        root.mkdir(parents=True, exist_ok=True)
        busy = f"{root}: another run is working in this directory; wait for it or give -o another"
        self._lock: int | None = claim(root / ".lock", busy)
        for leftover in [path for pattern in LEFTOVERS for path in root.rglob(pattern)]:
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)
        try:
            self.state = read_state(root) if (root / STATE).exists() else {"stages": {}}
            self._save()
        except BaseException:
            self.close()
            raise

    def _save(self) -> None:
        write_sealed(self.root / STATE, self.state)

    def close(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            os.close(self._lock)
        self._lock = None

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def stage(self, name: str, output: str, inputs: dict[str, Any], work: Work, *, shared: bool = False) -> str:
        """Do the work, or keep what an earlier run left.

        Args:
            name: unique in the run.
            output: path below the root; a directory, or a file if it has a suffix.
            inputs: JSON values that decide the result.
            work: called with the path to write; a directory exists and is empty, a file does not exist. Returns the
                files that it read beside `inputs`, where a change in them makes the result stale.
            shared: every process of a run that has several does its part; see `following`.

        Returns:
            Hash of the output, for the inputs of later stages.
        """
        self._guard()
        key, target = sha256_json(inputs), self.root / output
        known = self.state["stages"].get(name)
        fields = field_hashes(inputs)
        stale = "" if known is None else _why(known, key, fields, target)
        if known is not None and not stale:
            self.kept.append(name)
            log.info("%s: kept", name)
            return str(known["output"])
        log.info("%s: started%s", name, f" again: {stale}" if stale else "")
        began = time.monotonic()
        self.state["stages"].pop(name, None)
        self._save()
        with stage(name):
            reads = self._do(target, work)
        seconds = round(time.monotonic() - began, 2)
        record = {"inputs": key, "fields": fields, "reads": reads, "output": hash_path(target), "path": output}
        self.state["stages"][name] = {**record, "seconds": seconds, "done": utc(time.time())}
        self._save()
        self.redone.append(name)
        log.info("%s: done in %.1f s", name, seconds)
        return str(record["output"])

    def _do(self, target: Path, work: Work) -> dict[str, str]:
        """The work of a stage, its output under its final name only when all of it is there."""
        _remove(target)
        if not target.suffix:
            with staged_directory(target) as staging:
                reads = work(staging)
                self._guard()
            return dict(reads or {})
        partial = target.with_name(f".{target.name}.partial")
        _remove(partial)
        target.parent.mkdir(parents=True, exist_ok=True)
        reads = work(partial)
        self._guard()
        partial.replace(target)
        return dict(reads or {})

    def write_recipe(self, text: str) -> str | None:
        """Write `recipe.yaml`; returns the last one where that is as it was written and says otherwise."""
        path, digest = self.root / RECIPE, hashlib.sha256(text.encode()).hexdigest()
        known, old = self.state.get("recipe"), None
        if path.is_file() and known != digest:
            raw = path.read_bytes()
            if hashlib.sha256(raw).hexdigest() == known:
                old = raw.decode("utf8")
            elif known is not None and raw != text.encode():
                log.warning("%s: altered since the last run wrote it; written again", path)
        self.write(RECIPE, text)
        self.state["recipe"] = digest
        self._save()
        return old

    def write(self, name: str, text: str) -> None:
        """Write a small file of the run atomically."""
        write_text(self.root / name, text)


def read_state(root: Path) -> dict[str, Any]:
    """What `state.json` of a run directory records: `stages` by name, and the hash of the recipe.

    Raises:
        PruneError: damaged, with the cure.
    """
    path = root / STATE
    try:
        found = read_sealed(path)
        found["stages"].items()
        return found
    except (ValueError, KeyError, AttributeError, OSError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise PruneError(
            f"{path}: damaged ({why}): which stages are done can no longer be told; restore it, or remove it "
            "and do every stage again with --resume"
        ) from None


def require_unaltered(root: Path, state: Mapping[str, Any], below: tuple[str, ...]) -> None:
    """Refuse results that are not as their stages left them.

    Args:
        root: a run directory.
        state: from `read_state`.
        below: beginnings of the outputs that are looked at.

    Raises:
        PruneError: names the first result that was altered or is gone.
    """
    for name, done in state["stages"].items():
        path = root / done["path"]
        if done["path"].startswith(below) and (not path.exists() or hash_path(path) != done["output"]):
            raise PruneError(f"{path}: altered since stage {name} wrote it; `prune run` with --resume makes it again")


def field_hashes(inputs: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 of each value that a stage depends on."""
    return {field: sha256_json(value) for field, value in inputs.items()}


def _why(known: Mapping[str, Any], key: str, fields: Mapping[str, str], target: Path) -> str:
    """What made an earlier result stale, for the log; empty if nothing did."""
    if known["inputs"] != key:
        old = known["fields"]
        changed = sorted(name for name in fields.keys() | old.keys() if fields.get(name) != old.get(name))
        return f"changed since the last run: {', '.join(changed)}"
    changed = [path for path, digest in known["reads"].items() if _hash_or_none(Path(path)) != digest]
    if changed:
        return f"changed since the last run: {', '.join(changed)}"
    if not target.exists() or hash_path(target) != known["output"]:
        return "its earlier result is gone or was altered"
    return ""


def _hash_or_none(path: Path) -> str | None:
    return hash_path(path) if path.exists() else None


def hash_path(path: Path) -> str:
    """SHA-256 of a file, or of a directory's names and contents; empty for anything else (a pipe, a device)."""
    return sha256_tree(path) if path.is_dir() else sha256_file(path) if path.is_file() else ""


def _remove(path: Path) -> None:
    # Renamed first: a kill while deleting must not leave half a result under a final name.
    if os.path.lexists(path):  # a link that leads nowhere too
        doomed = path.with_name(f".{path.name}.{os.getpid()}.old")
        path.rename(doomed)
        shutil.rmtree(doomed) if doomed.is_dir() and not doomed.is_symlink() else doomed.unlink()
