"""Angular distance across each removed run of layers (Gromov et al. 2024, eq. 7), last token of each document."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from prune.layer_runs import removed_runs
from prune.planning.context import Context
from prune.planning.registry import Criterion, Keep

KEY = "angular_distance/last"


def layer_scores(context: Context, removals: int) -> Sequence[float]:
    return np.diagonal(context.measure(KEY), offset=1).tolist()  # d(l, l + 1)


def subset_costs(context: Context, keeps: Sequence[Keep]) -> list[float]:
    """Sum over removed runs i..j of d(i, j + 1); one run gives the published block score."""
    distance = context.measure(KEY)  # [L+1, L+1]
    return [float(sum(distance[i, j + 1] for i, j in removed_runs(keep, context.num_layers))) for keep in keeps]


CRITERION = Criterion(
    "angle between the stream before and after each removed run (Gromov et al. 2024)",
    layer_scores,
    subset_costs,
    measured=True,
)
