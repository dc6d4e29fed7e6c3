"""Greedy removal that carries the best few subsets of each size instead of one, found by contests (`elimination`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from prune.planning.elimination import Contests
from prune.planning.registry import Keep, Problem, Step, Strategy


def search(problem: Problem) -> Iterator[Step]:
    beam, contests = [Step((), 0.0)], Contests(problem)
    while len(beam[0].order) < problem.removals[-1]:
        parents: dict[Keep, tuple[Step, int]] = {}
        for step in beam:  # the best parent first: a subset reached twice keeps its better trail
            for layer in problem.removable:
                if layer not in step.order:
                    keep = tuple(other for other in problem.full if other not in step.order and other != layer)
                    parents.setdefault(keep, (step, layer))
        last = len(beam[0].order) + 1 == problem.removals[-1]
        width = 1 if last else problem.tuning.beam_width
        costs = contests.costs(list(parents), width)
        ranked = sorted(zip(costs, parents, strict=True), key=lambda pair: (pair[0], pair[1]))[:width]
        beam = []
        for cost, keep in ranked:
            parent, layer = parents[keep]
            beam.append(Step((*parent.order, layer), cost, (*parent.trail, cost)))
        yield dataclasses.replace(beam[0], estimated=contests.notes)


STRATEGY = Strategy("greedy, carrying the best few subsets of each size (--beam_width)", search)
