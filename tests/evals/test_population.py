"""What is drawn from a population has the retention and the correlations that the population states."""

from __future__ import annotations

import numpy as np
import pytest

from evals.population import Scenario

POPULATIONS = [
    Scenario("right or wrong", 100, 0.7, 0.0, 0.95, 0.0),
    Scenario("right or wrong", 1319, 0.7, 0.0, 0.95, 1.0),
    Scenario("right or wrong", 1000, 0.35, 0.25, 0.95, 0.8),
    Scenario("right or wrong", 50, 0.7, 0.0, 0.6, 0.8),
    Scenario("right or wrong", 400, 0.7, 0.25, 0.95, 0.8, tasks=4),
    Scenario("graded", 30, 0.7, 0.0, 0.95, 0.8),
    Scenario("bits per byte", 30, 0.6, 0.0, 0.95, 1.0),
    Scenario("right or wrong", 600, 0.7, 0.25, 0.95, 0.0, cluster=3, within=0.3),
    Scenario("right or wrong", 300, 0.7, 0.0, 0.95, 0.8, cluster=5, within=0.3, unequal=True),
    Scenario("graded", 300, 0.7, 0.0, 0.95, 0.8, cluster=3, within=0.3),
    Scenario("bits per byte", 150, 0.6, 0.0, 0.95, 1.0, cluster=5, within=0.3),
]


@pytest.mark.parametrize(
    "scenario", POPULATIONS, ids=lambda s: f"{s.kind}-{s.tasks}x{s.n}-{s.correlation}-{s.cluster}-{s.within}"
)
def test_the_drawn_models_have_the_retention_they_should(scenario: Scenario) -> None:
    rng = np.random.default_rng(0)
    means = np.mean([[p.values() for p in scenario.draw(rng)] for _ in range(600)], axis=(0, 1))
    if scenario.kind == "bits per byte":
        assert means[0] / means[1] == pytest.approx(0.95, abs=0.01)
    else:
        kept = (means[1] - scenario.chance) / (means[0] - scenario.chance)
        assert kept == pytest.approx(scenario.retention, abs=0.02)


def test_answers_within_a_cluster_are_as_correlated_as_the_scenario_says() -> None:
    pairs = Scenario("right or wrong", 40_000, 0.7, 0.0, 0.95, 0.8, cluster=2, within=0.3).draw(
        np.random.default_rng(0)
    )[0]
    for score in (pairs.original, pairs.candidate, pairs.candidate - pairs.original):
        first, second = score.reshape(-1, 2).T
        assert np.corrcoef(first, second)[0, 1] == pytest.approx(0.3, abs=0.025)


def test_candidates_of_one_original_have_the_retention_they_should() -> None:
    rng = np.random.default_rng(0)
    original = (rng.random(200_000) < 0.7).astype(float)
    pairs = Scenario("right or wrong", 1, 0.7, 0.25, 0.8, 0.5).against(original, rng)
    first, second = pairs.values()
    assert (second - 0.25) / (first - 0.25) == pytest.approx(0.8, abs=0.01)


def test_shares_that_rounding_leaves_below_zero_can_be_drawn():
    alike = Scenario("right or wrong", 40, 0.1 + 0.2, 0.0, 1.0 - 2**-53, 1.0, floor=0.95)
    assert min(alike._cell_shares()) >= 0
    for original in np.linspace(0.1, 0.99, 400):
        drawn = Scenario("right or wrong", 8, float(original), 0.0, 0.98, 1.0).draw(np.random.default_rng(0))
        assert len(drawn[0].original) == 8
