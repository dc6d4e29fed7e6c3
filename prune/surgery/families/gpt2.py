"""GPT-2 may scale its attention by the number of the layer."""

from __future__ import annotations

from prune.errors import PruneError
from prune.surgery.families.patterns import alike
from prune.surgery.families.rule import Family, Removal


def _refuse(removal: Removal) -> None:
    moved = any(old != new for new, old in enumerate(removal.keep))
    if removal.text.get("scale_attn_by_inverse_layer_idx") and moved:
        raise PruneError("config.json: scale_attn_by_inverse_layer_idx: only layers at the end can go")


FAMILY = Family(derives=alike, refuse=_refuse)
