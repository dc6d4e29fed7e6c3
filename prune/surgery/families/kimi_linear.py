"""Kimi Linear lists its linear and its full attention layers in a sub-config, counting from 1 (GLM 5 Next too)."""

from __future__ import annotations

from prune.surgery.families.rule import Family, Removal


def _edit(removal: Removal) -> None:
    lists = removal.text.get("linear_attn_config")
    if isinstance(lists, dict):
        for name in ("kda_layers", "full_attn_layers"):
            if isinstance(lists.get(name), list):
                lists[name] = removal.renumber_from_one(lists[name])


FAMILY = Family(edit=_edit)
