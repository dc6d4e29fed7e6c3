"""MiniCPM 3 scales what each layer adds by scale_depth / sqrt(depth)."""

from __future__ import annotations

import math

from prune.surgery.families.rule import Family, Removal


def _edit(removal: Removal) -> None:
    removal.text["scale_depth"] = removal.text.get("scale_depth", 1.4) * math.sqrt(len(removal.keep) / removal.n)


FAMILY = Family(edit=_edit)
