"""Only cuts that leave every layer where a runtime looks for its kind: chosen when `--runtime` names such a runtime.

A runtime that recomputes a pattern from the layer's number (every sixth layer full attention, say) reads a shallower
model rightly when the layer at each position is of the kind that it derives there. Which source layers may stand at a
position is given (`Problem.slots`). A dynamic programme over (layers seen, layers kept) gives the cheapest such cuts if
costs were the sum of the layers' own scores; the best few are then scored as the criterion scores subsets, and the
cheapest wins. Without slots any layer may stand anywhere.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence

from prune.planning.registry import Keep, Problem, Step, Strategy

CANDIDATES = 16
"""Cuts scored for every depth: scores of single layers rank near-equal cuts only roughly."""


def search(problem: Problem) -> Iterator[Step]:
    for count in problem.removals:
        scores, left = problem.layer_scores(count), problem.num_layers - count
        slots = problem.slots(left) if problem.slots else [frozenset(problem.full)] * left
        if slots is None:
            continue
        keeps = cheapest(scores, slots, problem.protected, CANDIDATES)
        if not keeps:
            continue
        cost, keep = min(zip(problem.costs(keeps), keeps, strict=True))
        gone = set(problem.full) - set(keep)
        yield Step(tuple(sorted(gone, key=lambda layer: (scores[layer], -layer))), cost)


def cheapest(
    scores: Sequence[float], slots: Sequence[frozenset[int]], protected: frozenset[int], most: int
) -> list[Keep]:
    """The subsets that stay with the smallest sums of the scores that go, best first.

    Args:
        scores: cost of removing each layer alone [L].
        slots: for each position of the result, the source layers that may stand there.
        protected: layers that stay.
        most: how many subsets.
    """
    best: list[list[tuple[float, Keep]]] = [[(0.0, ())], *([] for _ in slots)]  # by number of layers kept so far
    for layer, score in enumerate(scores):
        following: list[list[tuple[float, Keep]]] = [[] for _ in best]
        for kept, states in enumerate(best):
            for cost, keep in states:
                if layer not in protected:
                    following[kept].append((cost + score, keep))
                if kept < len(slots) and layer in slots[kept]:
                    following[kept + 1].append((cost, (*keep, layer)))
        best = [heapq.nsmallest(most, states) for states in following]
    return [keep for _, keep in best[-1]]


STRATEGY = Strategy("the cheapest cuts that a named runtime reads rightly", search)
