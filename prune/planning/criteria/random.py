"""Baseline: layers go in an order drawn with the plan's seed."""

from __future__ import annotations

import random
from collections.abc import Sequence

from prune.planning.context import Context
from prune.planning.registry import Criterion


def layer_scores(context: Context, removals: int) -> Sequence[float]:
    ranks = list(range(context.units.size))
    random.Random(context.seed).shuffle(ranks)
    return [float(rank) for rank in ranks]


CRITERION = Criterion("baseline: an order drawn with --seed", layer_scores, apart=True, ranks=True)
