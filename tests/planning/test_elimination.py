"""Contests drop subsets on part of the documents, and give what is left its cost on all."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from prune.planning.elimination import Contests
from prune.planning.evaluator import Evaluator
from prune.planning.paired import CONFIDENCE, Documents
from prune.planning.planner import make_plan
from prune.planning.registry import Problem, get_strategy
from prune.planning.tuning import Tuning
from tests.planning.small import build, domains
from tests.planning.test_race import DEPTH, DOCUMENTS, World

SEEDS = range(8)


class Counting(World):
    """A world that counts documents read: of every subset each once."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.read: dict[tuple[int, ...], int] = {}

    def scores(self, keeps, look):
        number = self.ground.documents(look)[0]
        self.read.update({keep: max(number, self.read.get(keep, 0)) for keep in keeps})
        return super().scores(keeps, look)

    def costs(self, keeps):
        self.read.update(dict.fromkeys(keeps, DOCUMENTS))
        return [self.cost(set(range(DEPTH)) - set(keep)) for keep in keeps]

    def problem(self, *, raced: bool = True, removals=(4,), **tuning):
        read = (lambda: Documents(self.ground, self.scores)) if raced else None
        alone = [self.cost([layer]) for layer in range(DEPTH)]
        return Problem(DEPTH, frozenset(), removals, lambda n: alone, self.costs, Tuning(**tuning), documents=read)


@pytest.mark.parametrize("number", [1, 4])
def test_the_best_get_their_cost_on_all_documents_and_the_others_none(number):
    right, read, asked = 0, 0, 0
    for seed in SEEDS:
        world = Counting(seed)
        contests = Contests(world.problem())
        keeps = [contests.problem.without(drop) for drop in itertools.combinations(range(DEPTH), 2)]
        costs = contests.costs(keeps, number)
        true = [world.cost(set(range(DEPTH)) - set(keep)) for keep in keeps]
        assert all(math.isinf(cost) or cost == pytest.approx(truth) for cost, truth in zip(costs, true, strict=True))
        best = sorted(range(len(keeps)), key=true.__getitem__)[:number]
        right += sorted(range(len(keeps)), key=costs.__getitem__)[:number] == best
        read += sum(world.read.values())
        asked += DOCUMENTS * len(keeps)
        assert contests.notes == {
            "documents": [DOCUMENTS], "candidates": [120], "confidence": CONFIDENCE,
            "candidates_on_all": [sum(map(math.isfinite, costs))],
        }  # fmt: skip
    assert right >= CONFIDENCE * len(SEEDS) - 1
    assert read < 0.35 * asked


@pytest.mark.parametrize(("strategy", "share"), [("beam", 0.5), ("evolutionary", 0.6), ("greedy_swap", 0.5)])
def test_searches_find_on_part_of_the_documents_what_they_find_on_all(strategy, share):
    same, read = 0, []
    for seed in SEEDS:
        raced, whole = Counting(seed), Counting(seed)
        found = [
            list(get_strategy(strategy).search(world.problem(raced=world is raced, max_subsets=200)))[-1]
            for world in (raced, whole)
        ]
        assert found[0].cost == pytest.approx(raced.cost(found[0].order))
        same += found[0].cost <= found[1].cost * 1.01
        read.append(sum(raced.read.values()) / sum(whole.read.values()))
    assert same >= len(SEEDS) - 1
    assert np.median(read) < share


def test_a_plan_says_how_many_candidates_were_scored_on_all_documents():
    evaluator = Evaluator(build(), domains(), batch_size=4)
    found = make_plan(source="made", evaluator=evaluator, strategy="beam", num_layers=6)
    used = found.evaluations
    assert used["candidates"][0] == 8
    assert all(some <= of for some, of in zip(used["candidates_on_all"], used["candidates"], strict=True))
    assert used["documents"] == [evaluator.num_documents] * 2
    assert found.scores["cost"] == pytest.approx(evaluator.score(found.keep).total)
