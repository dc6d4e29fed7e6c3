"""What the axes of a measurement mean: names and coordinates for every key of README.md.

The shape tells for most: one figure a layer, one a depth of the stream, or one a pair of layers (the skipped one
first). Only what is none of these, or has the same shape and another meaning, stands in the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prune.errors import PruneError

Axes = dict[str, list[Any]]
"""Axis -> the coordinate of each entry, in the order of the dimensions."""

NAMED: dict[str, tuple[str, ...]] = {
    "angular_distance": ("from_depth", "to_depth"),
    "final_share": ("writer",),
    "width/top_share": ("depth", "directions"),
    "erasure": ("layer", "segment"),
    "integrated_gradients": ("layer", "segment"),
    "swap_effect": ("layer",),
    "difficulty": ("document",),
    "depth_score": ("document",),
}
"""Start of a key -> its axes, where the shape does not tell. `segment` is an eighth of the prompt; a swap's `layer` is
the lower of the two that are exchanged; `writer` is the embedding or a layer."""

LEADING_DIRECTIONS = (1, 4, 16)  # principal directions whose share of the variance `width/top_share` gives


def axes(key: str, shape: Sequence[int], num_layers: int) -> Axes:
    """Names and coordinates of a measurement's axes.

    Args:
        key: as in README.md, without `by_domain/NAME/`.
        shape: of its array.
        num_layers: L.

    Raises:
        PruneError: an array that fits no rule; a new measurement needs a line in `NAMED`.
    """
    begin = next((start for start in NAMED if key == start or key.startswith(f"{start}/")), None)
    if begin is not None:
        names = NAMED[begin]
    elif tuple(shape) == (num_layers,):
        names = ("layer",)
    elif tuple(shape) == (num_layers + 1,):
        names = ("depth",)
    elif tuple(shape) == (num_layers, num_layers):
        names = ("skipped", "affected")
    else:
        names = ()
    if len(names) != len(shape):
        raise PruneError(f"{key}: an array of shape {list(shape)} has no axis names in prune/analysis/axes.py")
    return {name: _coordinates(name, size) for name, size in zip(names, shape, strict=True)}


def _coordinates(name: str, size: int) -> list[Any]:
    if name == "writer":
        return ["embedding", *(f"layer {index}" for index in range(size - 1))]
    return list(LEADING_DIRECTIONS[:size]) if name == "directions" else list(range(size))
