"""Remove the cheapest layer, score all others again on all documents on what is left, and so on (SLEB).

Where layers do not give alike towards the budget, the one that costs least for what it gives goes (`worth`). What
`greedy` is measured against. One search gives every depth on its way: the plans nest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from prune.planning.registry import Problem, Step, Strategy
from prune.planning.worth import per_worth


def search(problem: Problem) -> Iterator[Step]:
    keep = problem.full
    order: tuple[int, ...] = ()
    trail: tuple[float, ...] = ()
    before = 0.0

    def price(cost: float, layer: int) -> float:
        if problem.worth is None or not math.isfinite(before):
            return cost
        return per_worth(cost - before, problem.gives(layer, order))

    while len(order) < problem.removals[-1]:
        layers = [layer for layer in keep if layer not in problem.protected and problem.may_go(layer, order)]
        subsets = [tuple(other for other in keep if other != layer) for layer in layers]
        whole = problem.worth is not None and not order  # its cost is asked for in the same sweep
        costs = list(problem.costs([keep, *subsets] if whole else subsets))
        before = costs.pop(0) if whole else before
        before, layer = min(zip(costs, layers, strict=True), key=lambda pair: (price(*pair), -pair[1]))
        keep = tuple(other for other in keep if other != layer)
        order, trail = (*order, layer), (*trail, before)
        yield Step(order, before, trail)


STRATEGY = Strategy("the cheapest layer goes, all others are scored again on all documents (SLEB)", search)
