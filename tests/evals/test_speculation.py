"""What a speed-up takes, against the formula written out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from evals.speculation import best_tokens, expected_speedup, median_interval, needed_acceptance, share_interval


def by_hand(alpha: float, cost: float) -> float:
    """The largest Σ α^k / (γc + 1) over γ."""
    return max(sum(alpha**k for k in range(g + 1)) / (g * cost + 1) for g in range(1, 17))


@pytest.mark.parametrize(("cost", "needed"), [(0.1, 0.57), (0.2, 0.71), (0.3, 0.82), (0.4, 0.91), (0.5, 0.97)])
def test_a_speed_up_of_1_6_needs_what_the_table_says(cost, needed):
    alpha = needed_acceptance(cost, 1.6)
    assert alpha == pytest.approx(needed, abs=0.011)
    assert by_hand(alpha, cost) >= 1.6 > by_hand(alpha - 0.002, cost)


def test_no_acceptance_gives_more_than_the_ceiling():
    assert needed_acceptance(0.5, 2.0) is None
    assert needed_acceptance(0.9, 1.6) is None


def test_the_best_number_of_tokens_has_no_better_neighbour():
    for alpha, cost in [(0.3, 0.2), (0.8, 0.1), (0.95, 0.3)]:
        tokens = best_tokens(alpha, cost)
        assert expected_speedup(alpha, tokens, cost) == pytest.approx(by_hand(alpha, cost))


def test_intervals_hold_their_figure_and_shrink_with_more_prompts():
    drawn = np.random.default_rng(1).normal(1.5, 0.3, size=400)
    few, many = median_interval(drawn[:20]), median_interval(drawn)
    assert few[0] < np.median(drawn[:20]) < few[1]
    assert many[1] - many[0] < few[1] - few[0]
    low, high = share_interval([8, 9, 2], [10, 10, 10])
    assert 0.2 <= low < 19 / 30 < high <= 0.9
    assert share_interval([0], [0]) is None
