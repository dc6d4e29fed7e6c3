"""GPT-Neo states its attention types as groups of names, each so many times."""

from __future__ import annotations

from typing import Any

from prune.checkpoint.depth_fields import MOST_LAYERS
from prune.errors import PruneError
from prune.surgery.families.rule import Family, Removal


def _edit(removal: Removal) -> None:
    """One group a layer."""
    groups = removal.text.get("attention_types") or [[["global", "local"], 12]]
    if not isinstance(groups, list) or not all(map(_is_group, groups)):
        raise PruneError("config.json: attention_types must be a list of [[names], how many times]")
    flat = [name for names, times in groups for _ in range(times) for name in names]
    if len(flat) != removal.n:
        raise PruneError(f"config.json: attention_types describes {len(flat)} layers, not {removal.n}")
    removal.text["attention_types"] = [[[flat[i]], 1] for i in removal.keep]


def _is_group(group: Any) -> bool:
    return (
        isinstance(group, list)
        and len(group) == 2
        and isinstance(group[0], list)
        and type(group[1]) is int
        and 0 <= group[1] <= MOST_LAYERS
    )


FAMILY = Family(edit=_edit)
