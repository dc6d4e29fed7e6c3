"""Which weights belong to which unit of a loaded model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prune.errors import PruneError
from prune.model.anatomy import Anatomy, find_anatomy
from prune.planning.units import Units

if TYPE_CHECKING:
    from torch import nn


def unit_matrices(model: nn.Module, units: Units) -> list[list[nn.Parameter]]:
    """The matrices of every unit [L or 2L]; an MLP's are all of its layer's that are not attention's.

    Raises:
        PruneError: a layer without an attention of its own.
    """
    anatomy = find_anatomy(model)
    groups: list[list[nn.Parameter]] = [list(layer.parameters()) for layer in anatomy.layers]
    if units.apart:
        groups = _parted(model, anatomy)
    return [[weight for weight in group if weight.dim() >= 2] for group in groups]


def _parted(model: nn.Module, anatomy: Anatomy) -> list[list[nn.Parameter]]:
    groups = []
    for index, (layer, attention) in enumerate(zip(anatomy.layers, anatomy.attention, strict=True)):
        if attention is None:
            raise PruneError(f"layer {index} of {type(model).__name__} has no attention of its own: use --unit layer")
        inside = {id(parameter) for parameter in attention.parameters()}
        groups += [list(attention.parameters()), [p for p in layer.parameters() if id(p) not in inside]]
    return groups
