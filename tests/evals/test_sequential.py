"""Looks stop where the interval decides, and stopping early keeps the level."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from evals.errors import EvalUsageError
from evals.records import TaskResult
from evals.sequential import judge_in_looks
from tests.evals.test_gate import answers, suite_of

LOOKS = [50, 100, 200]


def scorer(scores: np.ndarray) -> Callable[[int], dict[str, TaskResult]]:
    return lambda items: {"t": answers("t", scores[:items])}


def alternating(share: float) -> np.ndarray:
    """The stated share of right answers in every stretch of ten items."""
    return (np.arange(200) % 10 < round(10 * share)).astype(float)


def test_a_clear_loss_ends_at_the_first_look() -> None:
    looks = judge_in_looks(scorer(alternating(0.9)), scorer(alternating(0.2)), [suite_of("t")], LOOKS)
    assert [items for items, _ in looks] == [50]
    assert looks[-1][1].overall == "FAIL"


def test_a_close_call_takes_every_look_at_the_shared_level() -> None:
    looks = judge_in_looks(scorer(alternating(0.9)), scorer(alternating(0.8)), [suite_of("t", floor=0.89)], LOOKS)
    assert [items for items, _ in looks] == LOOKS
    assert looks[-1][1].overall == "INCONCLUSIVE"
    assert all(evidence.alpha == pytest.approx(0.05 / 3) for _, evidence in looks)


def test_stopping_early_errs_no_more_often_than_the_level() -> None:
    random = np.random.default_rng(0)
    wrong, runs = 0, 150
    for run in range(runs):
        original = random.random(200) < 0.8
        kept = random.random(200) < 0.9  # retention exactly at the floor: PASS and FAIL are both errors
        suites = [suite_of("t", floor=0.9)]
        looks = judge_in_looks(
            scorer(original.astype(float)), scorer((original & kept).astype(float)), suites, LOOKS, seed=run,
            bootstrap=300,
        )  # fmt: skip
        wrong += looks[-1][1].overall != "INCONCLUSIVE"
    # 150 experiments at 5 % have a standard deviation of 1.8 points: three of them above the level.
    assert wrong / runs <= 0.05 + 3 * 0.018


@pytest.mark.parametrize("looks", [[], [0, 5], [10, 10], [20, 10]])
def test_looks_that_are_no_plan_are_refused(looks: list[int]) -> None:
    with pytest.raises(EvalUsageError, match="increasing"):
        judge_in_looks(scorer(alternating(0.9)), scorer(alternating(0.9)), [suite_of("t")], looks)
