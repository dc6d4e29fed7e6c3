"""Tokens per answer and per correct answer, against sums by hand and repeated draws."""

from __future__ import annotations

import numpy as np
import pytest

from evals.answer_cost import TOKENS, answer_cost
from evals.records import Record, TaskResult


def result(lengths: list[int], scores: list[float], **more: object) -> TaskResult:
    records = [
        Record(i, f"d{i}", "p", score, {TOKENS: n, "response": ""})
        for i, (n, score) in enumerate(zip(lengths, scores, strict=True))
    ]
    return TaskResult("gsm8k", "exact_match", "none", records, **more)  # type: ignore[arg-type]


ASKED = {"seed": 0, "bootstrap": 4000, "alpha": 0.05}


def test_a_wordier_model_with_fewer_right_pays_for_both() -> None:
    found = answer_cost(result([10, 20, 30, 40], [1, 1, 1, 0]), result([20, 20, 60, 50], [1, 0, 0, 0]), **ASKED)
    assert found is not None
    assert (found.original_tokens, found.candidate_tokens, found.ratio) == (25, 37.5, 1.5)
    assert found.original_per_correct == pytest.approx(100 / 3)
    assert found.candidate_per_correct == 150
    assert found.price(2.0, candidate=True) == pytest.approx(150 * 2 / 1e6)
    assert found.ratio_lo is not None
    assert found.ratio_hi is not None
    assert 1 <= found.ratio_lo < 1.5 < found.ratio_hi <= 2


def test_nothing_right_has_no_price_and_equal_answers_have_no_spread() -> None:
    found = answer_cost(result([5, 7, 9], [0, 0, 0]), result([5, 7, 9], [0, 1, 0]), **ASKED)
    assert found is not None
    assert found.price(1.0, candidate=False) is None
    assert (found.ratio_lo, found.ratio, found.ratio_hi) == (1, 1, 1)


def test_the_interval_is_that_of_repeated_samples() -> None:
    """Pairs cancel what makes a question long: the paired interval is far shorter than an unpaired one."""
    draw = np.random.default_rng(3)

    def sample(n: int) -> tuple[np.ndarray, np.ndarray]:
        hard = draw.lognormal(4, 0.6, n)
        return hard.round() + 1, (1.2 * hard * draw.lognormal(0, 0.1, n)).round() + 1

    ratios = [b.sum() / a.sum() for a, b in (sample(200) for _ in range(2000))]
    wanted = np.quantile(ratios, [0.025, 0.975])
    one, other = sample(200)
    right = [1.0] * 200
    found = answer_cost(result(one.astype(int).tolist(), right), result(other.astype(int).tolist(), right), **ASKED)
    assert found is not None
    assert found.ratio_hi is not None
    assert found.ratio_lo is not None
    assert found.ratio_hi - found.ratio_lo == pytest.approx(wanted[1] - wanted[0], rel=0.3)
    assert found.ratio_lo < 1.21 < found.ratio_hi + 0.02


def test_tasks_that_generate_nothing_have_no_answers_to_count() -> None:
    plain = TaskResult("arc", "acc", "none", [Record(0, "d", "p", 1.0)])
    assert answer_cost(plain, plain, **ASKED) is None
    assert answer_cost(result([3], [-2.0], higher_is_better=False), result([3], [-2.0]), **ASKED) is None
