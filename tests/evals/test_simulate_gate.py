"""The gate keeps its level: a candidate exactly at the floor passes in at most one experiment of twenty."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from evals.gate import judge, verdict_of
from evals.population import Mixed, Scenario, losing
from evals.records import Record, TaskResult
from evals.retention import retention_interval
from evals.suite import Suite, TaskSpec

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


COMMON: dict[str, Any] = {"kind": "right or wrong", "chance": 0.0, "original": 0.7, "correlation": 1.0}
UNEQUAL = [
    losing([10, 500, 500, 500], [1, 0, 0, 0], **COMMON),
    losing([20, 500, 500], [1, 0, 0], **COMMON),
    losing([30, 1000], [1, 0], **COMMON),
    losing([100, 500, 500], [5, -1, -1], **COMMON),
    losing([8] * 20, [1] + [0] * 19, **COMMON),
    losing([30, 50], [1, 0], floor=0.8, **COMMON | {"kind": "graded"}),
]


@pytest.mark.parametrize("suite", UNEQUAL, ids=lambda suite: "-".join(str(m.n) for m in suite.members))
def test_no_small_task_hides_a_loss(suite: Mixed) -> None:
    assert suite.retention == pytest.approx(suite.floor)
    rates = gate.simulate(suite, experiments=300, bootstrap=400, seed=4)
    assert within(rates.passed, 300, 0.025)
    assert within(rates.failed, 300, 0.025)


def test_equal_tasks_keep_their_power() -> None:
    equal = Scenario("right or wrong", 500, 0.7, 0.0, 1.0, 0.8, tasks=4)
    assert gate.simulate(equal, experiments=100, bootstrap=400).passed > 0.95


@pytest.mark.parametrize("n", [50, 200])
def test_few_heavy_texts_that_none_of_those_seen_may_show_are_not_passed(n: int) -> None:
    heavy = Scenario("bits per byte", n, 0.6, 0.0, 0.95, 1.0, heavy=0.01, times=5.3)
    assert gate.simulate(heavy, experiments=60, bootstrap=300).passed == 0
    lengths = Scenario("bits per byte", n, 0.6, 0.0, 0.95, 1.0, tail=1.5)
    assert gate.simulate(lengths, experiments=60, bootstrap=300).passed == 0


def test_losses_in_the_largest_clusters_are_not_passed() -> None:
    giants = Scenario("right or wrong", 1200, 0.7, 0.0, 0.9, 1.0, floor=0.9, cluster=2, within=1.0, giant=0.01)
    assert within(gate.simulate(giants, experiments=300, bootstrap=400).passed, 300, 0.025)


def test_judge_gives_the_verdicts_that_are_simulated() -> None:
    """The simulation calls interval and rule; the door that users take must decide the same."""
    suite = Suite(name="s", tasks=[TaskSpec(task=f"t{i}") for i in range(2)])
    rng, seen = np.random.default_rng(0), set()
    for experiment in range(60):
        population = losing([60, 400], [1, 0], **COMMON | {"correlation": 0.8}, floor=0.7 + 0.3 * (experiment % 2))
        pairs = population.draw(rng)
        results = [
            {
                f"t{i}": TaskResult(
                    f"t{i}", "acc", "none", [Record(k, f"{i}/{k}", f"{i}/{k}", s) for k, s in enumerate(scores)]
                )
                for i, scores in enumerate(both)
            }
            for both in ([p.original for p in pairs], [p.candidate for p in pairs])
        ]
        found = judge(*results, [suite.model_copy(update={"floor": 0.9})], bootstrap=4000).suite("s")
        interval = retention_interval(pairs, seed=experiment, bootstrap=4000, alpha=0.05)
        if abs((found.retention_lo or 0) - 0.9) > 0.005 and abs((found.retention_hi or 9) - 0.9) > 0.005:
            assert found.verdict == verdict_of(interval, 0.9, 0.05)
            seen.add(found.verdict)
    assert {"PASS", "FAIL"} <= seen


@pytest.mark.parametrize("name", ["answers", "graded", "clusters", "texts"])
def test_every_point_that_decodes_is_exactly_at_its_floor(name: str) -> None:
    family, rng, tried = gate.FAMILIES[name], np.random.default_rng(0), 0
    for _ in range(400):
        population = family.decode(rng.random(family.size))
        if population is not None:
            tried += 1
            assert population.retention == pytest.approx(population.floor)
    assert tried > 40


def test_the_search_finds_a_planted_worst_cell() -> None:
    """Where the rate of wrong verdicts grows with the floor, the highest floor is found."""

    def rate(population: Any, experiments: int, seed: int) -> float:
        return float(population.floor)

    found = list(gate.search(gate.FAMILIES["answers"], rate, generations=3, seed=0))
    assert found[0].floor == 0.98


def test_a_simulation_that_was_finished_is_not_run_again(tmp_path: Path) -> None:
    log, ran = tmp_path / "finished.jsonl", []
    for _ in range(2):
        finished = dict(json.loads(line) for line in log.read_text().splitlines()) if log.is_file() else {}
        run = gate.Run(10, 200, 0, finished, log)
        assert run.once("a cell", lambda: ran.append(1) or [0.5]) == [0.5]
    assert len(ran) == 1


@pytest.mark.slow
@pytest.mark.parametrize("side", ["PASS", "FAIL"])
@pytest.mark.parametrize("name", ["answers", "graded", "clusters"])
def test_no_cell_that_a_search_finds_breaks_three_percent(name: str, side: str) -> None:
    def rate(population: Any, experiments: int, seed: int) -> float:
        return float(gate.wrong_share(population, side, experiments=experiments, bootstrap=400, seed=seed))

    for population in gate.search(gate.FAMILIES[name], rate, generations=2, seed=11):
        rates = gate.simulate(population, experiments=1500, bootstrap=1000, seed=5)
        assert within(rates.passed if side == "PASS" else rates.failed, 1500, 0.03)


@pytest.mark.parametrize(
    ("documents", "floor", "heavy", "times"), [(1500, 0.8, 0.002, 3.38), (800, 0.6, 0.00125, 8.43)]
)
def test_a_loss_in_texts_longer_than_all_that_a_sample_may_hold_does_not_pass(
    documents: int, floor: float, heavy: float, times: float
) -> None:
    """One sample in twenty to three has none of them; with the longest text seen as the bound, 21 % of the second."""
    cell = Scenario("bits per byte", documents, 0.6, 0.0, floor, 1.0, floor=floor, heavy=heavy, times=times,
                    longest=True, tail=1.5)  # fmt: skip
    rates = gate.simulate(cell, experiments=60, bootstrap=300, seed=3)
    assert rates.passed <= 0.02
