"""Baseline: layers at even spacing go; which ones depends on how many, so plans of two sizes need not nest."""

from __future__ import annotations

from collections.abc import Sequence

from prune.planning.context import Context
from prune.planning.registry import Criterion


def layer_scores(context: Context, removals: int) -> Sequence[float]:
    removable = [layer for layer in range(context.units.size) if layer not in context.protected]
    chosen = {removable[(2 * i + 1) * len(removable) // (2 * removals)] for i in range(removals)}
    return [0.0 if layer in chosen else 1.0 for layer in range(context.units.size)]


CRITERION = Criterion("baseline: layers at even spacing go", layer_scores, apart=True, ranks=True)
