"""MiniMax reads the length of its cache from the first layer."""

from __future__ import annotations

from prune.errors import PruneError
from prune.surgery.families.rule import Family, Removal


def _refuse(removal: Removal) -> None:
    types, first = removal.types, removal.keep[0]
    if types and types[0] == "full_attention" != types[first]:
        raise PruneError(
            "config.json: layer_types: minimax reads its cache's length from the first layer, and generates wrongly"
            f" when that is {types[first]}; keep a full_attention layer in front"
        )


FAMILY = Family(refuse=_refuse)
