"""Greedy removal, then exchanges: while putting one removed layer back and taking another out helps, the best does.

Greedy keeps its early choices even when later ones make them poor; an exchange undoes one, and must give no less
towards the budget than is wanted. Ends at a subset that no single exchange improves, or at --max_subsets. The exchanges
contend with the subset at hand (`elimination`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from prune.planning.elimination import Contests
from prune.planning.registry import Keep, Problem, Step, Strategy
from prune.planning.strategies import greedy


def search(problem: Problem) -> Iterator[Step]:
    for step in greedy.search(problem):
        if len(step.order) in problem.removals:
            (cost,) = problem.costs([problem.without(step.order)])  # greedy's own may be an estimate
            step = _exchanged(problem, dataclasses.replace(step, cost=cost))
        yield step


def _exchanged(problem: Problem, step: Step) -> Step:
    """The end of the exchanges that begin at `step`; layers that were exchanged stand last in its order."""
    tried: set[Keep] = {problem.without(step.order)}
    order, cost, contests = step.order, step.cost, Contests(problem)
    while True:
        exchanges: dict[Keep, Keep] = {}
        for back in order:
            for out in problem.removable:
                gone = problem.exchanged(order, back, out) if out not in order else None
                if gone is not None and (keep := problem.without(gone)) not in tried:
                    exchanges[keep] = gone
        new = list(exchanges)[: problem.tuning.max_subsets - len(tried)]
        if not new:
            break
        tried.update(new)
        costs = contests.costs(new, 1, [problem.without(order)])
        best, keep = min(zip(costs, new, strict=True))
        if best >= cost:
            break
        order, cost = exchanges[keep], best
    if order == step.order:
        return step
    return Step(order, cost, estimated=contests.notes and {**contests.notes, **(step.estimated or {})})


STRATEGY = Strategy("greedy, then single exchanges of a removed and a kept layer while they help", search)
