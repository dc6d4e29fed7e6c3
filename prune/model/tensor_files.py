"""Which safetensors file of a checkpoint, local or on the hub, holds which tensor, and how large each is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prune.checkpoint.directory import INDEX, SINGLE
from prune.checkpoint.headers import read_header
from prune.errors import UsageError


@dataclass(frozen=True)
class TensorPlace:
    """Where one tensor lies.

    Attributes:
        path: its file.
        bytes: its size there.
    """

    path: str
    bytes: int


def tensor_places(model: str, revision: str | None = None) -> dict[str, TensorPlace]:
    """Every tensor of a checkpoint by its name on disk. As in transformers, a single file wins over an index.

    Raises:
        UsageError: no safetensors files there.
        PruneError: a header that is not well formed.
    """
    from transformers.utils.hub import cached_file, get_checkpoint_shard_files

    options: dict[str, Any] = {"_raise_exceptions_for_missing_entries": False, "revision": revision}
    single, index = cached_file(model, SINGLE, **options), cached_file(model, INDEX, **options)
    if single is not None:
        paths = [single]
    elif index is not None:
        paths, _ = get_checkpoint_shard_files(model, index, revision=revision)
    else:
        raise UsageError(f"{model}: no {SINGLE} and no {INDEX} there: --stream reads safetensors files only")
    headers = {str(path): read_header(Path(path)) for path in paths}
    return {e.name: TensorPlace(path, e.bytes) for path, header in headers.items() for e in header.entries}
