"""Baseline: the deepest layers go first."""

from __future__ import annotations

from collections.abc import Sequence

from prune.planning.context import Context
from prune.planning.registry import Criterion


def layer_scores(context: Context, removals: int) -> Sequence[float]:
    return [float(context.units.size - unit) for unit in range(context.units.size)]


CRITERION = Criterion("baseline: the deepest layers go first", layer_scores, apart=True, ranks=True)
