"""Qwen 4: some layers own a table of n-grams, and are named counting from 1."""

from __future__ import annotations

from prune.errors import PruneError
from prune.surgery.families.rule import Family, Removal


def _refuse(removal: Removal) -> None:
    for index in removal.text.get("ple_layer_ids") or []:
        if index - 1 not in removal.keep:
            raise PruneError(f"config.json: ple_layer_ids: layer {index - 1} owns an n-gram table; keep it")


def _edit(removal: Removal) -> None:
    if isinstance(removal.text.get("ple_layer_ids"), list):
        removal.text["ple_layer_ids"] = removal.renumber_from_one(removal.text["ple_layer_ids"])


FAMILY = Family(refuse=_refuse, edit=_edit)
