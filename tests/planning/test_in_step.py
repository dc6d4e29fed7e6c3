"""Cuts whose layers stand where a runtime looks for their kind: the cheapest is found, as brute force finds it."""

from __future__ import annotations

import itertools
import random

import pytest

from prune.errors import UsageError
from prune.planning.planner import make_plan
from prune.planning.registry import Problem
from prune.planning.strategies.in_step import STRATEGY, cheapest
from prune.serving.check import can_read, slots_for
from tests.serving.test_readers import DEPTH, config_of


@pytest.mark.parametrize(("family", "count"), [("gemma3_text", 6), ("gemma2", 8), ("cohere2", 8), ("smollm3", 8)])
def test_the_cheapest_readable_cut_is_that_of_brute_force(family: str, count: int) -> None:
    config, rng = config_of(family), random.Random(0)
    scores = [rng.random() for _ in range(DEPTH)]
    slots = slots_for(config, ["llama.cpp"])(count)
    assert slots is not None
    found = cheapest(scores, slots, frozenset({0}), 1)[0]
    readable = can_read(config, ["llama.cpp"])
    every = [keep for keep in itertools.combinations(range(DEPTH), count) if 0 in keep and readable(keep)]
    assert readable(found)
    assert found == min(every, key=lambda keep: sum(scores[layer] for layer in range(DEPTH) if layer not in keep))


def test_what_the_slots_allow_is_what_the_runtime_reads() -> None:
    config = config_of("gemma3_text")
    slots = slots_for(config, ["llama.cpp", "mlx"])(9)
    assert slots is not None
    readable = can_read(config, ["llama.cpp", "mlx"])
    for keep in itertools.combinations(range(DEPTH), 9):
        fits = all(layer in allowed for layer, allowed in zip(keep, slots, strict=True))
        assert fits == readable(keep)


def test_the_best_few_are_scored_as_subsets() -> None:
    """The sum of single scores prefers dropping 0 and 1; together they cost more than 2 and 3."""
    together = {(2, 3): 9.0, (0, 1): 1.0, (1, 2): 5.0, (0, 3): 5.0, (0, 2): 5.0, (1, 3): 5.0}
    problem = Problem(
        4, frozenset(), (2,), lambda count: [0.1, 0.1, 0.2, 0.2], lambda keeps: [together[k] for k in keeps],
        slots=lambda count: [frozenset(range(4))] * count,
    )  # fmt: skip
    (step,) = STRATEGY.search(problem)
    assert sorted(step.order) == [2, 3]
    assert step.cost == 1.0


def test_a_depth_that_cannot_be_read_is_refused_with_those_that_can() -> None:
    with pytest.raises(UsageError, match=r"runtime: no cut of that size can be read; depths that can: 3"):
        make_plan(
            source="none", criterion="last_n", num_layers=2, analysis=None, evaluator=Depth4(),
            slots=lambda count: [frozenset(range(4))] * 3 if count == 3 else None,
        )  # fmt: skip


class Depth4:
    """Enough of an evaluator for a criterion that needs none."""

    num_layers = 4
    model = None
    sweeps = False
