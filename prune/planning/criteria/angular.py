"""Angular distance across each removed run of layers (Gromov et al. 2024, eq. 7), last token of each document."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from prune.planning.context import Context
from prune.planning.registry import Criterion, Keep

KEY = "angular_distance/last"


def layer_scores(context: Context, removals: int) -> Sequence[float]:
    return np.diagonal(context.measure(KEY), offset=1).tolist()  # d(l, l + 1)


def subset_costs(context: Context, keeps: Sequence[Keep]) -> list[float]:
    """Sum over removed runs [i, j) of d(i, j); one run gives the published block score."""
    distance = context.measure(KEY)  # [L+1, L+1]
    return [float(sum(distance[i, j] for i, j in removed_runs(keep, context.num_layers))) for keep in keeps]


def removed_runs(keep: Keep, num_layers: int) -> Iterator[tuple[int, int]]:
    """Maximal runs of removed layers, half-open."""
    edges = [-1, *keep, num_layers]
    return ((a + 1, b) for a, b in itertools.pairwise(edges) if b > a + 1)


CRITERION = Criterion(
    "angle between the stream before and after each removed run (Gromov et al. 2024)",
    layer_scores,
    subset_costs,
    measured=True,
)
