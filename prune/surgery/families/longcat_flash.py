"""LongCat: each layer holds two attention sub-layers, which the derived num_hidden_layers counts."""

from __future__ import annotations

from prune.surgery.families.rule import Family, Removal


def _edit(removal: Removal) -> None:
    if removal.text.get("num_hidden_layers") == 2 * removal.n:
        removal.text["num_hidden_layers"] = 2 * len(removal.keep)


FAMILY = Family(edit=_edit)
