"""RecurrentGemma states its blocks as a cycle, here written out."""

from __future__ import annotations

from prune.surgery.families.rule import Family, Removal


def _edit(removal: Removal) -> None:
    cycle = removal.text.get("block_types") or ["recurrent", "recurrent", "attention"]
    removal.text["block_types"] = [cycle[i % len(cycle)] for i in removal.keep]


FAMILY = Family(edit=_edit)
