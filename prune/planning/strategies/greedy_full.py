"""Remove the cheapest layer, score all others again on all documents on what is left, and so on (SLEB).

What `greedy` is measured against. One search gives every depth on its way: the plans nest.
"""

from __future__ import annotations

from collections.abc import Iterator

from prune.planning.registry import Problem, Step, Strategy


def search(problem: Problem) -> Iterator[Step]:
    keep = problem.full
    order: tuple[int, ...] = ()
    trail: tuple[float, ...] = ()
    while len(order) < problem.removals[-1]:
        layers = [layer for layer in keep if layer not in problem.protected]
        costs = problem.costs([tuple(other for other in keep if other != layer) for layer in layers])
        cost, layer = min(zip(costs, layers, strict=True), key=lambda pair: (pair[0], -pair[1]))
        keep = tuple(other for other in keep if other != layer)
        order, trail = (*order, layer), (*trail, cost)
        yield Step(order, cost, trail)


STRATEGY = Strategy("the cheapest layer goes, all others are scored again on all documents (SLEB)", search)
