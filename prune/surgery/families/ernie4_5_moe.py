"""Ernie 4.5 MoE states its mixture layers as (start, end, interval)."""

from __future__ import annotations

from prune.errors import PruneError
from prune.surgery.families.rule import Family, Removal

NAMES = ("moe_layer_start_index", "moe_layer_end_index", "moe_layer_interval")


def _edit(removal: Removal) -> None:
    """Find values that give the kept layers, or refuse."""
    start, end, interval = (removal.text.get(name, default) for name, default in zip(NAMES, (1, -1, 1), strict=True))
    end = removal.n - 1 if end == -1 else end
    old, depth = _pattern(removal.n, start, end, interval), len(removal.keep)
    wanted = [old[i] for i in removal.keep]
    for every in (interval, *range(1, depth + 1)):
        for first in (start, *range(depth)):
            for last in (depth - 1, *range(depth)):
                if _pattern(depth, first, last, every) == wanted:
                    removal.text.update(zip(NAMES, (first, last, every), strict=True))
                    return
    raise PruneError("config.json: moe_layer_interval: the kept layers follow no (start, end, interval)")


def _pattern(depth: int, first: int, last: int, every: int) -> list[bool]:
    return [(i + 1) % every == 0 and first <= i <= last for i in range(depth)]


FAMILY = Family(edit=_edit)
