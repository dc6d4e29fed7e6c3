"""The best few of many subsets, the others dropped on part of the documents (Hoeffding races, Maron and Moore 1994).

All subsets are scored on a small share of every domain; those that cost more than the last of the best by more than a
confidence interval of the paired difference are dropped, and the next share is for the others. Those that are left are
scored on all documents, so that what a search goes on with is no estimate. Where the criterion has no costs by
document, all subsets are scored on all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evals.progress import stage
from prune.planning.paired import CONFIDENCE, Documents, difference, quantile
from prune.planning.registry import Keep, Problem


@dataclass
class Contests:
    """Contests of one search.

    Attributes:
        problem: what is searched.
        candidates: subsets of each contest.
        whole: of these, those that were scored on all documents.
    """

    problem: Problem
    candidates: list[int] = field(default_factory=list)
    whole: list[int] = field(default_factory=list)

    def costs(self, keeps: Sequence[Keep], number: int, rivals: Sequence[Keep] = ()) -> list[float]:
        """The cost of each subset on all documents; infinite for those shown not to be among the best `number`.

        Args:
            keeps: the units that stay, each.
            number: how many are wanted, rivals counted.
            rivals: subsets that the others contend with, whose cost the search has.
        """
        if self.problem.documents is None or len(keeps) + len(rivals) <= number:
            return list(self.problem.costs(keeps))
        left = set(_left(self.problem.documents(), [*rivals, *keeps], number))
        some = [keep for keep in keeps if keep in left]
        self.candidates.append(len(keeps))
        self.whole.append(len(some))
        known = dict(zip(some, self.problem.costs(some) if some else (), strict=True))
        return [known.get(keep, math.inf) for keep in keeps]

    @property
    def notes(self) -> dict[str, Any] | None:
        """For the plan; None where there was no contest."""
        if not self.candidates:
            return None
        assert self.problem.documents is not None
        size = self.problem.documents().ground.size
        return {
            "documents": [size] * len(self.candidates),
            "candidates": self.candidates,
            "candidates_on_all": self.whole,
            "confidence": CONFIDENCE,
        }


def _left(documents: Documents, keeps: Sequence[Keep], number: int) -> list[Keep]:
    """Those that may be among the best `number`, in the order given."""
    ground = documents.ground
    left, look = list(keeps), ground.first
    last = tuple(len(shares) - 1 for shares in ground.shares)
    with stage("contest", ground.size, "documents") as running:
        while len(left) > number and look != last:
            costs = dict(zip(left, documents.scores(left, look), strict=True))
            read = sum(ground.documents(look))
            none = [np.zeros(count) for count in ground.documents(look)]
            means = {keep: difference(ground, costs[keep], none).value for keep in left}
            ranked = sorted(left, key=lambda keep: (means[keep], keep))
            edge, limit = costs[ranked[number - 1]], quantile(len(left), read)
            best = set(ranked[:number])
            gaps = {keep: difference(ground, costs[keep], edge) for keep in left}
            left = [keep for keep in left if keep in best or gaps[keep].value <= limit * gaps[keep].error]
            running.at(read, f"{len(left)} of {len(keeps)} candidates left")
            look = tuple(min(level + 1, most) for level, most in zip(look, last, strict=True))
        running.at(ground.size)
    return left
