"""Which safetensors file of a checkpoint, local or on the hub, holds which tensor, and how large each is."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prune.errors import UsageError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


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
    return {name: TensorPlace(str(path), size) for path in paths for name, size in _sizes(Path(path)).items()}


def _sizes(path: Path) -> dict[str, int]:
    """Name -> bytes, from the header of a file: 8 bytes of length, then JSON."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    header.pop("__metadata__", None)
    return {name: entry["data_offsets"][1] - entry["data_offsets"][0] for name, entry in header.items()}
