"""Zamba and Zamba 2: hybrid layers share transformer blocks."""

from __future__ import annotations

from prune.errors import PruneError
from prune.surgery.families.rule import Family, Removal


def _keep_two(removal: Removal) -> None:
    types = removal.types
    if sum(types[i] == "hybrid" for i in removal.keep if i < len(types)) == 1:
        raise PruneError("config.json: layers_block_type: zamba does not load with a single hybrid layer; keep two")


def _keep_all_hybrid(removal: Removal) -> None:
    gone = [i for i, name in enumerate(removal.types) if name == "hybrid" and i not in removal.keep]
    if gone:
        raise PruneError(
            f"config.json: layers_block_type: layer {gone[0]} is hybrid; the shared transformers and their adapters"
            " are chosen by position among the hybrid layers; drop linear_attention layers only"
        )


ZAMBA = Family(refuse=_keep_two, shared_block=("shared_transf", ".linear.weight"))
ZAMBA2 = Family(refuse=_keep_all_hybrid)
