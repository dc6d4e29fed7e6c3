"""Remove the layers with the lowest scores, scored once, on the full model: for what they give, where that differs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prune.planning.registry import Keep, Problem, Step, Strategy
from prune.planning.worth import per_worth


def search(problem: Problem) -> Iterator[Step]:
    for count in problem.removals:
        scores = problem.layer_scores(count)
        order: Keep = ()
        while len(order) < count:
            left = (layer for layer in problem.removable if layer not in order and problem.may_go(layer, order))
            order = (*order, min(left, key=lambda layer: (_price(problem, scores, layer, order), -layer)))
        yield Step(order, sum(scores[layer] for layer in order))


def _price(problem: Problem, scores: Sequence[float], layer: int, gone: Keep) -> float:
    return scores[layer] if problem.worth is None else per_worth(scores[layer], problem.gives(layer, gone))


STRATEGY = Strategy("the lowest scores on the full model go, all at once", search)
