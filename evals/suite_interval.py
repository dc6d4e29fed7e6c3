"""The interval of a suite's own score: the mean over its tasks, whose items may be the same.

Each task has an interval of its own, which counts clusters as they are (`retention.value_interval`). They are put
together by the method of variance estimates recovery (MOVER; Zou and Donner 2008, Statistics in Medicine 27): the
squared half-width of a sum is the sum over all pairs of tasks of rho x half-width x half-width, end by end. rho is the
correlation of two tasks' scores, from what their units contribute; 0 where they share none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from evals.paired import Pairs, joint_sums

Ends = tuple[float, float]


def mean_interval(tasks: Sequence[Pairs], side: Literal["original", "candidate"], ends: Sequence[Ends]) -> Ends:
    """Ends of the mean over tasks of one model's metric, at the level of the tasks' own intervals.

    Args:
        tasks: at least one; all point in one direction.
        side: whose scores.
        ends: of each task's own interval.
    """
    row = ("original", "candidate").index(side)
    values = np.array([pairs.values()[row] for pairs in tasks])  # [tasks]
    rho = correlations(tasks, side)
    lower, upper = values - [lo for lo, _ in ends], np.array([hi for _, hi in ends]) - values
    mean = math.fsum(values) / len(values)
    below, above = (math.sqrt(max(0.0, width @ rho @ width)) / len(values) for width in (lower, upper))
    return mean - below, mean + above


def correlations(tasks: Sequence[Pairs], side: Literal["original", "candidate"]) -> np.ndarray:
    """[tasks, tasks] correlations of the tasks' scores over units.

    A task whose scores are all alike shows no correlation; with one that shares its units it is taken to be 1, the most
    cautious.
    """
    table = joint_sums(tasks)  # [tasks, 3, units]
    scores, weights = table[:, ("original", "candidate").index(side)], table[:, 2]  # [tasks, units]
    total = weights.sum(1, keepdims=True)
    # What a unit moves the ratio of sums by, to first order.
    moves = (scores - scores.sum(1, keepdims=True) / total * weights) / total
    covariance = moves @ moves.T
    spread = np.sqrt(np.diag(covariance))
    shared = ((weights > 0).astype(float) @ (weights > 0).T) > 0
    scale = spread[:, None] * spread[None, :]
    rho = np.where(scale > 0, covariance / np.where(scale > 0, scale, 1.0), shared)
    np.fill_diagonal(rho, 1.0)
    return rho
