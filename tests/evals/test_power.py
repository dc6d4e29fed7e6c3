"""What the power check promises is what an independent simulation of the gate finds."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from evals.chances import gamma_below, gamma_quantile
from evals.errors import EvalUsageError
from evals.gate import verdict_of
from evals.paired import Pairs
from evals.power import power_check
from evals.retention import retention_interval
from evals.suite import Suite, TaskSpec
from tests.evals.test_gate import suite_of

CELLS = np.array([(1, 1), (1, 0), (0, 1), (0, 0)], dtype=float)


def simulated_power(sizes: list[int], discordant: float, floor: float, experiments: int, cluster: int = 1) -> float:
    """Share of PASS for an equal candidate, the original right on 0.7 of the items, by the gate itself."""
    rng = np.random.default_rng(1)
    shares = [0.7 - discordant / 2, discordant / 2, discordant / 2, 0.3 - discordant / 2]
    passed = 0
    for experiment in range(experiments):
        tasks = []
        for size in sizes:
            own, whole = rng.choice(4, size, p=shares), np.repeat(rng.choice(4, size // cluster, p=shares), cluster)
            scores = CELLS[np.where(rng.random(size) < np.sqrt(0.5), whole, own) if cluster > 1 else own]
            unit = np.repeat(np.arange(size // cluster), cluster) if cluster > 1 else None
            tasks.append(Pairs("t", scores[:, 0], scores[:, 1], np.ones(size), "mean", True, 0.0, unit))
        interval = retention_interval(tasks, seed=experiment, bootstrap=1000, alpha=0.05)
        passed += verdict_of(interval, floor, 0.05) == "PASS"
    return passed / experiments


@pytest.mark.parametrize(
    ("floor", "discordant", "tasks"), [(0.95, 0.10, 1), (0.9, 0.02, 1), (0.8, 0.1, 1), (0.95, 0.1, 3)]
)
def test_the_items_it_asks_for_pass_four_times_in_five(floor: float, discordant: float, tasks: int) -> None:
    suite = suite_of(*"abc"[:tasks], floor=floor)
    asked = power_check(suite, 50, discordant=discordant).items_needed
    assert asked % tasks == 0
    there = power_check(suite, asked // tasks, discordant=discordant)
    assert 0.8 <= there.power < 0.86
    found = simulated_power([asked // tasks] * tasks, discordant, floor, experiments=1000)
    # 1000 experiments at 0.8 have a standard deviation of 1.3 points: two of them beside the three promised.
    assert abs(found - there.power) <= 0.03 + 2 * 0.013


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sizes", "discordant", "floor", "cluster"),
    [
        ([641], 0.1, 0.95, 1), ([41], 0.1, 0.8, 1), ([388], 0.05, 0.95, 1), ([126], 0.02, 0.95, 1),
        ([500] * 4, 0.1, 0.95, 1), ([40, 300, 1000], 0.1, 0.9, 1), ([20, 20, 20, 20, 20], 0.1, 0.8, 1),
        ([1200], 0.1, 0.95, 3), ([400], 0.1, 0.8, 8),
    ],
)  # fmt: skip
def test_power_is_within_three_points(sizes: list[int], discordant: float, floor: float, cluster: int) -> None:
    names = [f"t{i}" for i in range(len(sizes))]
    suite = Suite(name="s", floor=floor, tasks=[TaskSpec(task=n, items_per_cluster=cluster) for n in names])
    said = power_check(suite, None, sizes=dict(zip(names, sizes, strict=True)), discordant=discordant).power
    found = simulated_power(sizes, discordant, floor, experiments=4000, cluster=cluster)
    # 4000 experiments have a standard deviation of 0.8 points at most.
    assert abs(found - said) <= 0.03 + 2 * 0.008


def test_a_shifted_gamma_is_scipys_pearson_distribution_of_type_three() -> None:
    from scipy.stats import pearson3

    at, skew = np.meshgrid(np.linspace(-3, 3, 13), [-2.0, -0.7, -1e-5, 0.0, 0.3, 1.9])
    assert gamma_below(at, skew) == pytest.approx(pearson3.cdf(at, skew), abs=2e-4)
    assert gamma_below(gamma_quantile(0.025, skew), skew) == pytest.approx(0.025, abs=1e-6)


def test_a_small_task_is_named_with_the_items_that_it_lacks() -> None:
    suite = suite_of("tiny", "large", name="s")
    check = power_check(suite, None, sizes={"tiny": 10, "large": 1000})
    assert check.power < 0.01
    assert not check.can_pass
    assert "INCONCLUSIVE" in check.message
    assert f"(tiny {check.items_needed - 1000} instead of 10)" in check.message
    filled = power_check(suite, None, sizes={"tiny": check.items_needed - 1000, "large": 1000})
    assert filled.power == pytest.approx(0.8, abs=0.02)


def test_fifty_texts_cannot_carry_a_claim() -> None:
    suite = Suite(name="s", tasks=[TaskSpec(task="t", metric="bits_per_byte")])
    few = power_check(suite, 50, original=0.0)
    assert few.power == 0
    assert 500 < few.items_needed < 1000
    assert power_check(suite, few.items_needed, original=0.0).can_pass
    assert not power_check(Suite(name="s", tasks=[TaskSpec(task="t", metric="word_perplexity")]), 1000).can_pass


def test_a_floor_of_one_is_only_for_better_candidates() -> None:
    check = power_check(suite_of("t", floor=1.0), 1000)
    assert (check.can_pass, check.items_needed) == (False, 0)


def test_clusters_need_more_items() -> None:
    single, clustered = (
        power_check(Suite(name="s", tasks=[TaskSpec(task="t", items_per_cluster=size)]), 600) for size in (1, 4)
    )
    assert (single.units, clustered.units) == (600, 150)
    assert clustered.power < single.power / 2
    assert "in about 150 clusters" in clustered.message


def test_it_takes_less_than_two_seconds_a_suite() -> None:
    began = time.process_time()
    power_check(suite_of(*"abcdefg", name="s"), 200)
    assert time.process_time() - began < 4  # twice the promise, for slow machines


@pytest.mark.parametrize(
    ("n", "settings", "message"),
    [(0, {}, "at least one item"), (None, {}, "at least one item"), (10, {"original": 0.2}, "not above chance")],
)
def test_power_of_nothing_is_a_usage_error(n: int | None, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(EvalUsageError, match=message):
        power_check(suite_of("t", chance=0.25), n, **settings)
