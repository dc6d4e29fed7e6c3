"""Evolutionary search over subsets of one size (EvoPress, Sieberling et al. 2024): mutate the best by exchanges.

Starts from the layers with the lowest scores, from the best subset of the size before plus one layer, and from random
subsets; each generation exchanges one to three layers of the survivors. No subset is scored twice, and a space no
larger than --max_subsets is searched whole, so the search always ends. A generation and the survivors contend on part
of the documents (`elimination`); what may survive is scored on all.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterable, Iterator, Sequence

from prune.planning.elimination import Contests
from prune.planning.registry import Keep, Problem, Step, Strategy

SURVIVORS = 4
CHILDREN = 24
PATIENCE = 4  # generations without a better subset
TRIES = 20  # draws for each wanted child


def search(problem: Problem) -> Iterator[Step]:
    generator = random.Random(problem.tuning.seed)
    best: Step | None = None
    contests = Contests(problem)
    for count in problem.removals:
        if math.comb(len(problem.removable), count) <= problem.tuning.max_subsets:
            found = _score(contests, itertools.combinations(problem.removable, count), 1)
        else:
            found = _evolve(contests, count, best, generator)
        drop = min(found, key=lambda subset: (found[subset], subset))
        best = Step(drop, found[drop], estimated=contests.notes)
        yield best


def _evolve(contests: Contests, count: int, smaller: Step | None, generator: random.Random) -> dict[Keep, float]:
    """Costs of every subset looked at, sorted layers -> cost; infinite for those that lost a contest."""
    problem = contests.problem
    scores = problem.layer_scores(count)
    cheapest = sorted(problem.removable, key=lambda layer: (scores[layer], -layer))
    first = {tuple(sorted(cheapest[:count]))}
    if smaller is not None:
        more = [layer for layer in cheapest if layer not in smaller.order][: count - len(smaller.order)]
        first.add(tuple(sorted((*smaller.order, *more))))
    while len(first) < min(CHILDREN, problem.tuning.max_subsets):  # the space is larger than max_subsets
        first.add(tuple(sorted(generator.sample(problem.removable, count))))
    seen = _score(contests, sorted(first)[: problem.tuning.max_subsets], SURVIVORS)
    stale, record = 0, min(seen.values())
    while stale < PATIENCE and len(seen) < problem.tuning.max_subsets:
        survivors = sorted(seen, key=lambda subset: (seen[subset], subset))[:SURVIVORS]
        wanted = min(CHILDREN, problem.tuning.max_subsets - len(seen))
        children: set[Keep] = set()
        for _ in range(TRIES * wanted):
            child = _mutant(problem, generator.choice(survivors), generator)
            if child not in seen:
                children.add(child)
            if len(children) == wanted:
                break
        if not children:
            break
        seen.update(_score(contests, sorted(children), SURVIVORS, survivors))
        stale, record = (0, min(seen.values())) if min(seen.values()) < record else (stale + 1, record)
    return seen


def _mutant(problem: Problem, parent: Keep, generator: random.Random) -> Keep:
    """One exchange, often; two or three, sometimes."""
    outside = [layer for layer in problem.removable if layer not in parent]
    times = min(len(parent), len(outside), generator.choice((1, 1, 1, 2, 2, 3)))
    back, out = set(generator.sample(parent, times)), generator.sample(outside, times)
    return tuple(sorted([*(layer for layer in parent if layer not in back), *out]))


def _score(contests: Contests, drops: Iterable[Keep], number: int, survivors: Sequence[Keep] = ()) -> dict[Keep, float]:
    subsets = list(drops)
    keeps, rivals = ([contests.problem.without(drop) for drop in some] for some in (subsets, survivors))
    return dict(zip(subsets, contests.costs(keeps, number, rivals), strict=True))


STRATEGY = Strategy("subsets evolve by exchanging layers, at most --max_subsets of them (EvoPress)", search)
