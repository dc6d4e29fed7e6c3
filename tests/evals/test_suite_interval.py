"""A suite's own interval: as wide as what its tasks share makes it, against formulas and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from evals.gate import judge
from evals.paired import Pairs
from evals.records import Record, TaskResult
from evals.retention import value_interval
from evals.suite import Suite, TaskSpec
from evals.suite_interval import correlations, mean_interval


def pairs(name: str, scores: np.ndarray, unit: np.ndarray | None = None) -> Pairs:
    return Pairs(name, scores, scores, np.ones(len(scores)), "mean", True, 0.0, unit)


def own(task: Pairs) -> tuple[float, float]:
    return value_interval(task, seed=0, bootstrap=2000, alpha=0.05)[0]


def coins(seed: int, n: int, p: float) -> np.ndarray:
    return (np.random.default_rng(seed).random(n) < p).astype(float)


def test_one_task_keeps_its_own_interval() -> None:
    task = pairs("a", coins(0, 80, 0.7))
    assert mean_interval([task], "original", [own(task)]) == pytest.approx(own(task))


def test_tasks_that_share_nothing_add_their_squares() -> None:
    tasks = [pairs("a", coins(1, 200, 0.8)), pairs("b", coins(2, 60, 0.4))]
    ends = [own(task) for task in tasks]
    values = [task.values()[0] for task in tasks]
    lo, hi = mean_interval(tasks, "original", ends)
    mean = sum(values) / 2
    assert mean - lo == pytest.approx(math.sqrt(sum((v - e[0]) ** 2 for v, e in zip(values, ends, strict=True))) / 2)
    assert hi - mean == pytest.approx(math.sqrt(sum((e[1] - v) ** 2 for v, e in zip(values, ends, strict=True))) / 2)


def test_the_same_items_asked_twice_count_once() -> None:
    scores, unit = coins(3, 120, 0.6), np.arange(120).astype(str)
    tasks = [pairs("a", scores, unit), pairs("again", scores, unit)]
    ends = [own(task) for task in tasks]
    assert mean_interval(tasks, "candidate", ends) == pytest.approx(ends[0])
    apart = [pairs("a", scores, unit), pairs("again", scores, np.char.add(unit, "x"))]
    lo, hi = mean_interval(apart, "candidate", ends)
    assert hi - lo < 0.75 * (ends[0][1] - ends[0][0])


def test_correlations_are_those_of_the_units_contributions() -> None:
    first = coins(4, 300, 0.7)
    second = np.where(coins(5, 300, 0.6) == 1, first, coins(6, 300, 0.5))
    unit = np.arange(300).astype(str)
    rho = correlations([pairs("a", first, unit), pairs("b", second, unit)], "original")
    assert rho[0, 1] == pytest.approx(np.corrcoef(first, second)[0, 1])
    unlike = [pairs("a", np.ones(300), unit), pairs("b", second, unit), pairs("c", second, np.char.add(unit, "c"))]
    assert correlations(unlike, "original").tolist()[0] == [1.0, 1.0, 0.0]  # all right: nothing shows, be cautious


def test_the_interval_covers_where_tasks_share_passages() -> None:
    """Two tasks ask three and two questions about each of 60 passages; a passage is easy or hard for both."""
    rng = np.random.default_rng(7)
    covered = naive = 0
    truth, rounds = 0.6, 300
    for _ in range(rounds):
        ease = rng.beta(1.2, 0.8, 60)  # mean 0.6
        tasks = []
        for name, questions in (("a", 3), ("b", 2)):
            scores = (rng.random((60, questions)) < ease[:, None]).astype(float).ravel()
            tasks.append(pairs(name, scores, np.repeat(np.arange(60), questions).astype(str)))
        ends = [value_interval(task, seed=0, bootstrap=400, alpha=0.05)[0] for task in tasks]
        lo, hi = mean_interval(tasks, "original", ends)
        covered += lo <= truth <= hi
        mean = sum(task.values()[0] for task in tasks) / 2
        half = math.sqrt(sum(((hi - lo) / 2) ** 2 for lo, hi in ends)) / 2
        naive += abs(mean - truth) <= half
    assert covered / rounds > 0.92
    assert naive / rounds < 0.9  # what taking the tasks for independent would give


def test_the_gate_writes_both_models_intervals_into_the_suite() -> None:
    def result(task: str, scores: np.ndarray) -> TaskResult:
        records = [Record(i, f"{task}{i}", f"p{i}", float(s)) for i, s in enumerate(scores)]
        return TaskResult(task=task, metric="acc", filter="none", records=records)

    original = {"a": result("a", coins(8, 90, 0.9)), "b": result("b", coins(9, 40, 0.8))}
    candidate = {"a": result("a", coins(10, 90, 0.6)), "b": result("b", coins(11, 40, 0.5))}
    suite = Suite(name="s", tasks=[TaskSpec(task="a"), TaskSpec(task="b"), TaskSpec(task="c", report_only=True)])
    found = judge(original, candidate, [suite]).suite("s")
    for side in ("original", "candidate"):
        value, lo, hi = (getattr(found, f"{side}{end}") for end in ("", "_lo", "_hi"))
        tasks = [[getattr(task, f"{side}{end}") for end in ("", "_lo", "_hi")] for task in found.tasks]
        assert value == pytest.approx(np.mean([t[0] for t in tasks]))
        assert lo == pytest.approx(value - math.hypot(*(t[0] - t[1] for t in tasks)) / 2)
        assert hi == pytest.approx(value + math.hypot(*(t[2] - t[0] for t in tasks)) / 2)
    nothing = judge(original, {}, [suite]).suite("s")
    assert nothing.candidate_lo is None
