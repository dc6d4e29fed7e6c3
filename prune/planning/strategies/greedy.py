"""Remove the cheapest layer, score the others again on what is left, and so on (SLEB), each round a race (`race`).

For a quarter of the layers it takes --search_effort of the layer evaluations of full passes, the clean pass and the
answer's score on all documents included; further rounds take the same share of theirs. One search gives every depth on
its way, and how much a round may take does not depend on how many follow: the plans nest. Costs on the way are
estimates from the documents that decided. A criterion that cannot say what single documents cost is searched in full.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from prune.planning.race import CONFIDENCE, Costs, Documents, Look, Outcome, Race, Round
from prune.planning.registry import Keep, Problem, Step, Strategy
from prune.planning.strategies import greedy_full

log = logging.getLogger(__name__)

FIRST_SHARE = 0.55  # of a quarter's purse: later rounds start from what the first learnt


def search(problem: Problem) -> Iterator[Step]:
    if problem.documents is None:
        yield from greedy_full.search(problem)
        return
    documents = problem.documents()
    race = Race(documents.ground)
    order: Keep = ()
    outcomes: list[Outcome] = []
    looks: list[Look] = []
    spent = float(problem.num_layers * documents.ground.size)  # the clean pass
    while len(order) < problem.removals[-1]:
        purse = _purse(problem, documents, order, spent)
        outcome = race.run(_round(problem, documents, looks, order, purse))
        spent += outcome.spent
        looks.append(outcome.look)
        numbers = [sum(documents.ground.documents(look)) for look in looks]
        order = (*order, outcome.layer)
        outcomes.append(outcome)
        log.info(
            "removal %d of at most %d: layer %d, of %d candidates scored, on %d of %d documents",
            len(order), problem.removals[-1], outcome.layer, outcome.scored, numbers[-1], documents.ground.size,
        )  # fmt: skip
        notes = {
            "documents": numbers,
            "candidates": [found.scored for found in outcomes],
            "regret": [found.regret for found in outcomes],
            "confidence": CONFIDENCE,
        }
        yield Step(order, outcome.cost, tuple(found.cost for found in outcomes), estimated=notes)


def _round(problem: Problem, documents: Documents, looks: Sequence[Look], order: Keep, purse: float) -> Round:
    """The choice of the next layer, when those of `order` are gone."""
    trunk = problem.without(order)

    def behind(layer: int) -> int:
        return sum(other > layer for other in trunk)

    def own(domain: int, level: int) -> int:
        """The last round left the states before its removal; documents that it did not see have none."""
        if not order:
            return 0
        return behind(order[-1] if looks[-1][domain] >= level else min(order))

    def sample(candidates: Sequence[int], look: Look) -> tuple[Costs, Sequence[Costs]]:
        subsets = [trunk, *(tuple(other for other in trunk if other != layer) for layer in candidates)]
        common, *costs = documents.scores(subsets, look)
        return common, costs

    candidates = [layer for layer in trunk if layer not in problem.protected]
    return Round(candidates, sample, behind, own, purse)


def _purse(problem: Problem, documents: Documents, order: Keep, spent: float) -> float:
    """Layer evaluations that the next round may take, in units of one layer over one document.

    Of a quarter's: what is left, less the answer's score on all documents; shallow models get a pass a round in any
    case.
    """
    depth, number, removed = problem.num_layers, documents.ground.size, len(order)
    quarter = max(1, depth // 4)
    if removed >= quarter:
        return number * problem.tuning.search_effort * problem.naive_round(removed)
    naive = depth + sum(map(problem.naive_round, range(quarter)))
    answer = depth - quarter - min(order, default=quarter)
    pool = number * (problem.tuning.search_effort * naive - answer) - spent
    share = FIRST_SHARE if removed == 0 and quarter > 1 else 1 / (quarter - removed)
    return max(pool * share, number * depth)


STRATEGY = Strategy("the cheapest layer goes, the rest is scored again, on as few documents as it takes", search)
