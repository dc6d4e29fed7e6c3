"""The gate keeps its level: a candidate exactly at the floor passes in at most one experiment of twenty."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binomtest

from evals.population import Scenario

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "simulate_gate.py"
spec = importlib.util.spec_from_file_location("simulate_gate", SCRIPT)
assert spec is not None
assert spec.loader is not None
gate: Any = importlib.util.module_from_spec(spec)
sys.modules["simulate_gate"] = gate
spec.loader.exec_module(gate)

AT_FLOOR = [
    Scenario("right or wrong", 30, 0.7, 0.0, 0.95, 0.8),
    Scenario("right or wrong", 100, 0.7, 0.0, 0.95, 0.0),
    Scenario("right or wrong", 1319, 0.7, 0.0, 0.95, 1.0),
    Scenario("right or wrong", 1000, 0.35, 0.25, 0.95, 0.8),
    Scenario("right or wrong", 50, 0.7, 0.0, 0.6, 0.8, floor=0.6),
    Scenario("right or wrong", 400, 0.7, 0.25, 0.95, 0.8, tasks=4),
    Scenario("graded", 30, 0.7, 0.0, 0.95, 0.8),
    Scenario("bits per byte", 30, 0.6, 0.0, 0.95, 1.0),
    Scenario("right or wrong", 40, 0.7, 0.0, 0.95, 0.8, cluster=5, within=1.0),
    Scenario("right or wrong", 600, 0.7, 0.0, 0.95, 0.8, cluster=3, within=1.0),
    Scenario("right or wrong", 600, 0.7, 0.25, 0.95, 0.0, cluster=3, within=0.3),
    Scenario("right or wrong", 300, 0.7, 0.0, 0.95, 0.8, cluster=5, within=0.3, unequal=True),
    Scenario("graded", 300, 0.7, 0.0, 0.95, 0.8, cluster=3, within=0.3),
    Scenario("bits per byte", 150, 0.6, 0.0, 0.95, 1.0, cluster=5, within=0.3),
]


def within(rate: float, count: int, level: float = 0.05) -> bool:
    """Refuted only where the level is beyond doubt exceeded: the experiments are few."""
    return bool(binomtest(round(rate * count), count, level, alternative="greater").pvalue > 0.005)


@pytest.mark.parametrize(
    "scenario", AT_FLOOR, ids=lambda s: f"{s.kind}-{s.tasks}x{s.n}-{s.correlation}-{s.cluster}-{s.within}"
)
def test_false_passes_and_fails_stay_within_five_percent(scenario: Scenario) -> None:
    count = 400
    rates = gate.simulate(scenario, experiments=count, bootstrap=400, seed=1)
    assert within(rates.passed, count)
    assert within(rates.failed, count)


def test_clusters_that_nobody_declares_break_the_level() -> None:
    hidden = Scenario("right or wrong", 600, 0.7, 0.0, 0.95, 0.8, cluster=5, within=1.0, declared=False)
    assert not within(gate.simulate(hidden, experiments=300, bootstrap=400, seed=1).passed, 300)


def test_an_equal_candidate_passes_with_enough_items() -> None:
    equal = Scenario("right or wrong", 1319, 0.7, 0.0, 1.0, 0.8)
    assert gate.simulate(equal, experiments=100, bootstrap=400).passed > 0.8


def test_a_candidate_at_chance_fails_with_few_items() -> None:
    lost = Scenario("right or wrong", 40, 0.7, 0.25, 0.0, 0.8)
    assert gate.simulate(lost, experiments=100, bootstrap=400).failed > 0.9


AT = Scenario("right or wrong", 200, 0.7, 0.0, 0.95, 0.8)
SUITES = [
    gate.Suites("independent", (AT,) * 3),
    gate.Suites("the same items", (AT,) * 3, shared=True),
    gate.Suites("mixed", (AT, AT, replace(AT, retention=1.0))),
]


@pytest.mark.parametrize("case", SUITES, ids=lambda case: case.name)
def test_holm_keeps_the_level_over_several_suites(case: Any) -> None:
    count = 300
    rates = gate.simulate_suites(case, experiments=count, bootstrap=400, seed=2)
    assert within(rates.any_false_pass, count)
    assert within(rates.any_false_fail, count)
    assert rates.any_false_pass <= rates.any_false_pass_uncorrected


def test_a_fixed_sequence_keeps_the_level_over_several_candidates_and_picking_the_shallowest_pass_does_not() -> None:
    count = 300
    worst = gate.Candidates("all at the floor", (0.95,) * 6, Scenario("right or wrong", 400, 0.7, 0.0, 0.95, 0.8))
    rates = gate.simulate_choice(worst, experiments=count, bootstrap=400, seed=3)
    assert within(rates.wrong_by_fixed_sequence, count, 0.025)
    assert not within(rates.wrong_by_shallowest_pass, count, 0.025)
    good = gate.Candidates("two keep all", (1.0, 1.0, 0.5), Scenario("right or wrong", 1319, 0.7, 0.0, 0.95, 0.8))
    assert gate.simulate_choice(good, experiments=100, bootstrap=400).best_by_fixed_sequence > 0.9
