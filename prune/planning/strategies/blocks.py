"""Remove several blocks: the cheapest run of consecutive remaining layers goes, the rest is scored again, and so on.

Fewer scores than layer by layer, and layers that only go together are found together. The last block is as small as
the wanted number needs. Plans of different depths nest as far as they share whole blocks.
"""

from __future__ import annotations

from collections.abc import Iterator

from prune.errors import UsageError
from prune.planning.registry import Keep, Problem, Step, Strategy


def search(problem: Problem) -> Iterator[Step]:
    """One step for each wanted size.

    Raises:
        UsageError: protected layers leave no room for a block.
    """
    whole: Step = Step((), 0.0)  # only whole blocks so far
    for count in problem.removals:
        while count - len(whole.order) >= problem.tuning.block_size:
            whole = _remove(problem, whole, problem.tuning.block_size)
        rest = count - len(whole.order)
        yield _remove(problem, whole, rest) if rest else whole


def _remove(problem: Problem, step: Step, size: int) -> Step:
    remaining = problem.without(step.order)
    runs: list[Keep] = [remaining[at : at + size] for at in range(len(remaining) - size + 1)]
    runs = [run for run in runs if problem.protected.isdisjoint(run)]
    if not runs:
        raise UsageError(f"--protect: no {size} consecutive layers are unprotected; give a smaller --block_size")
    costs = problem.costs([problem.without((*step.order, *run)) for run in runs])
    cost, run = min(zip(costs, runs, strict=True), key=lambda pair: (pair[0], -pair[1][0]))
    return Step((*step.order, *run), cost, (*step.trail, cost))


STRATEGY = Strategy("blocks of --block_size consecutive layers go, the rest is scored again", search, free=False)
