"""Jamba states two patterns, each only as (period, offset)."""

from __future__ import annotations

from prune.errors import PruneError
from prune.surgery.families.rule import Family, Removal


def _edit(removal: Removal) -> None:
    """Find values that give the kept layers, or refuse."""
    text, keep = removal.text, removal.keep
    for part, default in (("attn_layer", (8, 4)), ("expert_layer", (2, 1))):
        names = (f"{part}_period", f"{part}_offset")
        period, offset = (text.get(name, value) for name, value in zip(names, default, strict=True))
        wanted = [i % period == offset for i in keep]
        trials = [(period, offset), *((p, o) for p in range(1, len(keep) + 2) for o in range(p))]
        for trial in trials:
            if [i % trial[0] == trial[1] for i in range(len(keep))] == wanted:
                if trial != (period, offset):
                    text.update(zip(names, trial, strict=True))
                break
        else:
            raise PruneError(f"config.json: {names[0]}: the kept layers follow no (period, offset); drop whole periods")


FAMILY = Family(edit=_edit)
