"""Tensors that hold a share of every layer, cut along the axis on which the layers lie.

Gemma 3n and 4 keep the per-layer embeddings of all n layers in one table [V, n·p] and their projections in one matrix
[n·p, d]. Of the matrix whole rows stay, which is a few byte ranges; of the table a few ranges of every row.
Assumptions: the layers lie in order with equal shares, and the tensor is stored plain: a quantised one is refused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from prune.checkpoint.directory import Checkpoint
from prune.checkpoint.headers import BITS, Entry
from prune.errors import PruneError
from prune.layer_runs import runs

AXES = {"embed_tokens_per_layer": 1, "per_layer_model_projection": 0}
"""Module name -> axis of its weight on which the layers lie."""
ROWS = 1 << 12  # of a table compared at a time


@dataclass(frozen=True)
class Slices:
    """The part of a tensor that stays.

    Attributes:
        shape: of that part.
        rows: outer dimensions taken together.
        row_bytes: of one row before the cut.
        spans: byte ranges within a row that stay, in order, neighbours joined.
    """

    shape: tuple[int, ...]
    rows: int
    row_bytes: int
    spans: tuple[tuple[int, int], ...]

    @property
    def bytes(self) -> int:
        """Size of the part in bytes."""
        return self.rows * sum(end - begin for begin, end in self.spans)


def plan_slices(checkpoint: Checkpoint, depth: int, keep: Sequence[int]) -> dict[str, Slices]:
    """What stays of each packed tensor of a checkpoint, by name.

    Raises:
        PruneError: a packed tensor is quantised, or its size is no multiple of the depth.
    """
    found = {}
    for name, tensor in checkpoint.tensors.items():
        if (axis := _axis(name)) is None:
            continue
        if not name.endswith(".weight"):
            raise PruneError(f"{checkpoint.directory}: {name!r}: a quantised tensor of all layers cannot be cut")
        found[name] = slices_of(tensor.entry, axis, depth, keep)
    return found


def slices_of(entry: Entry, axis: int, depth: int, keep: Sequence[int]) -> Slices:
    """The kept layers' shares of one tensor.

    Raises:
        PruneError: its axis does not hold `depth` equal shares of whole bytes.
    """
    bits = BITS[entry.dtype] * math.prod(entry.shape[axis + 1 :])
    if len(entry.shape) != 2 or entry.shape[axis] % depth or not entry.shape[axis] or bits % 8:
        raise PruneError(
            f"tensor {entry.name!r} of shape {list(entry.shape)} does not hold {depth} layers' equal shares"
        )
    share = entry.shape[axis] // depth
    size = share * bits // 8
    spans = tuple((first * size, (last + 1) * size) for first, last in runs(keep))
    shape = tuple(share * len(keep) if dim == axis else length for dim, length in enumerate(entry.shape))
    return Slices(shape, math.prod(entry.shape[:axis]), depth * size, spans)


def check_packed(before: Checkpoint, after: Checkpoint, keep: Sequence[int], depth: int) -> None:
    """Compare the packed tensors of a cut with the original's, as tensors: what the byte ranges should have given.

    Raises:
        PruneError: one differs (named).
    """
    from safetensors import safe_open

    for name in (name for name in before.tensors if _axis(name) is not None):
        if name not in after.tensors:
            raise PruneError(f"tensor {name!r} is missing from the result")
        with (
            safe_open(before.tensors[name].path, framework="pt") as old_file,
            safe_open(after.tensors[name].path, framework="pt") as new_file,
        ):
            old, new = old_file.get_slice(name), new_file.get_slice(name)
            if not _equal(old, new, _axis(name) or 0, depth, list(keep)):
                raise PruneError(f"tensor {name!r} does not hold the kept layers' shares of the original's")


def _equal(old: object, new: object, axis: int, depth: int, keep: list[int]) -> bool:
    """Bitwise comparison of two lazily read matrices, some rows at a time where the layers lie on the columns."""
    import torch

    length = old.get_shape()[0]  # type: ignore[attr-defined]
    step = ROWS if axis == 1 else max(1, length)
    for at in range(0, max(1, length), step):
        whole = old[at : at + step]  # type: ignore[index]
        wanted = whole.unflatten(axis, (depth, -1)).index_select(axis, torch.tensor(keep)).flatten(axis, axis + 1)
        found = new[at : at + step] if axis == 1 else new[:]  # type: ignore[index]
        if wanted.shape != found.shape or not torch.equal(wanted.view(torch.uint8), found.view(torch.uint8)):
            return False
    return True


def _axis(name: str) -> int | None:
    """The layers' axis of a tensor by its name; None where it packs no layers."""
    return next((axis for module, axis in AXES.items() if f".{name}".find(f".{module}.") >= 0), None)
