"""The gate passes, fails or admits that it cannot tell, and never more often than its level allows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from evals.errors import EvalError, EvalUsageError
from evals.gate import confirmed, holm_levels, judge
from evals.power import power_check
from evals.records import Record, TaskResult
from evals.suite import Suite, TaskSpec


def answers(task: str, scores: Any, **changes: Any) -> TaskResult:
    records = [Record(i, f"d{i}", f"p{i}", float(s), {"response": str(s)}) for i, s in enumerate(scores)]
    return TaskResult(**{"task": task, "metric": "acc", "filter": "none", "records": records, **changes})


def right(n: int, share: float) -> np.ndarray:
    return (np.arange(n) < n * share).astype(float)


def suite_of(*names: str, **changes: Any) -> Suite:
    chance = changes.pop("chance", 0.0)
    return Suite(**{"name": names[0], "tasks": [TaskSpec(task=name, chance=chance) for name in names], **changes})


@pytest.mark.parametrize(
    ("candidate", "n", "verdict"), [(0.8, 1000, "PASS"), (0.5, 1000, "FAIL"), (0.77, 100, "INCONCLUSIVE")]
)
def test_the_three_verdicts(candidate: float, n: int, verdict: str) -> None:
    evidence = judge({"t": answers("t", right(n, 0.8))}, {"t": answers("t", right(n, candidate))}, [suite_of("t")])
    found = evidence.suite("t")
    assert evidence.overall == found.verdict == verdict
    assert found.retention == pytest.approx(candidate / 0.8)
    assert found.retention_lo is not None
    assert found.retention_hi is not None
    assert found.retention_lo <= found.retention <= found.retention_hi
    assert (found.retention_lo >= 0.95) == (verdict == "PASS")
    assert (found.retention_hi < 0.95) == (verdict == "FAIL")
    assert (found.items_needed is not None) == (verdict == "INCONCLUSIVE")


def test_the_items_needed_would_decide() -> None:
    short = judge({"t": answers("t", right(100, 0.8))}, {"t": answers("t", right(100, 0.78))}, [suite_of("t")])
    needed = short.suite("t").items_needed
    assert needed is not None
    n = round(needed * 1.1)
    enough = judge({"t": answers("t", right(n, 0.8))}, {"t": answers("t", right(n, 0.78))}, [suite_of("t")])
    assert enough.overall == "PASS"


def test_chance_is_subtracted() -> None:
    evidence = judge(
        {"t": answers("t", right(2000, 0.75))}, {"t": answers("t", right(2000, 0.5))}, [suite_of("t", chance=0.25)]
    )
    assert evidence.suite("t").retention == pytest.approx(0.5)
    assert evidence.suite("t").tasks[0].lost == 500
    assert evidence.suite("t").tasks[0].gained == 0


def test_a_suite_averages_its_tasks_alike_whatever_their_sizes() -> None:
    original = {"a": answers("a", right(1000, 0.8)), "b": answers("b", right(50, 0.4))}
    candidate = {"a": answers("a", right(1000, 0.6)), "b": answers("b", right(50, 0.4))}
    found = judge(original, candidate, [suite_of("a", "b")]).suite("a")
    assert found.retention == pytest.approx((0.6 + 0.4) / (0.8 + 0.4))
    assert found.n == 1050
    assert (found.original, found.candidate) == (pytest.approx(0.6), pytest.approx(0.5))


def test_report_only_tasks_are_shown_but_do_not_count() -> None:
    suite = Suite(name="s", tasks=[TaskSpec(task="a"), TaskSpec(task="b", report_only=True)])
    original = {"a": answers("a", right(500, 0.8)), "b": answers("b", right(500, 0.8))}
    candidate = {"a": original["a"], "b": answers("b", right(500, 0.1))}
    evidence = judge(original, candidate, [suite])
    assert evidence.overall == "PASS"
    assert [task.verdict for task in evidence.suite("s").tasks] == ["PASS", "FAIL"]
    assert set(evidence.samples) == {"a", "b"}


def test_an_original_at_chance_has_nothing_to_retain() -> None:
    evidence = judge(
        {"t": answers("t", right(100, 0.26))}, {"t": answers("t", right(100, 0.30))}, [suite_of("t", chance=0.25)]
    )
    found = evidence.suite("t")
    assert (found.verdict, found.retention, found.p, found.items_needed) == ("INCONCLUSIVE", None, None, None)
    assert "not clearly above chance" in found.note


def test_a_missing_task_leaves_its_suite_undecided_and_is_named() -> None:
    results = {"a": answers("a", right(1000, 0.8))}
    evidence = judge(results, results, [suite_of("a", "b"), suite_of("c"), suite_of("a", name="alone")])
    assert [s.verdict for s in evidence.suites] == ["INCONCLUSIVE", "INCONCLUSIVE", "PASS"]
    assert "no result for b" in evidence.suite("a").note
    assert evidence.suite("c").n == 0
    assert evidence.overall == "INCONCLUSIVE"


def test_lower_is_better_suites_fail_when_perplexity_grows_and_pass_when_it_falls() -> None:
    rng = np.random.default_rng(0)
    nats = -rng.uniform(400, 600, 200)
    kind: dict[str, Any] = {"metric": "bits_per_byte", "aggregation": "bits_per_byte", "higher_is_better": False}

    def texts(factor: float) -> dict[str, TaskResult]:
        records = [Record(i, f"d{i}", f"p{i}", s * factor, {"weight": 600.0}) for i, s in enumerate(nats)]
        return {"t": TaskResult("t", filter="none", records=records, **kind)}

    suite = Suite(name="s", tasks=[TaskSpec(task="t", metric="bits_per_byte")])
    worse, better = (judge(texts(1.0), texts(f), [suite]).suite("s") for f in (1.2, 0.9))
    assert (worse.verdict, better.verdict) == ("FAIL", "PASS")
    assert worse.retention == pytest.approx(1 / 1.2)
    assert better.retention == pytest.approx(1 / 0.9)
    assert worse.tasks[0].p is None


def test_holm_lowers_the_level_until_the_first_that_is_not_decided() -> None:
    levels = holm_levels({"a": 0.04, "b": 0.001, "c": 0.02}, 0.05)
    assert levels == {"b": 0.05 / 3, "c": 0.05 / 2, "a": 0.05}
    levels = holm_levels({"a": 0.04, "b": 0.001, "c": 0.03}, 0.05)
    assert levels == {"b": 0.05 / 3, "c": 0.05 / 2, "a": 0.05 / 2}  # c stops it: 0.03 > 0.025


def test_many_suites_are_harder_to_pass_than_one() -> None:
    n = 1000
    original = {f"t{k}": answers(f"t{k}", right(n, 0.8)) for k in range(6)}
    candidate = {f"t{k}": answers(f"t{k}", right(n, 0.774)) for k in range(6)}
    alone = judge(original, candidate, [suite_of("t0")]).suite("t0")
    together = judge(original, candidate, [suite_of(f"t{k}") for k in range(6)]).suite("t0")
    assert alone.alpha == 0.05
    assert together.alpha < 0.05
    assert alone.retention_lo is not None
    assert together.retention_lo is not None
    assert together.retention_lo < alone.retention_lo


def test_the_same_seed_gives_the_same_evidence_whatever_else_is_judged() -> None:
    original = {k: answers(k, right(200, 0.8)) for k in "ab"}
    candidate = {k: answers(k, right(200, 0.7)) for k in "ab"}
    first = judge(original, candidate, [suite_of("a"), suite_of("b")])
    second = judge(original, candidate, [suite_of("b"), suite_of("a")])
    assert first == judge(original, candidate, [suite_of("a"), suite_of("b")])
    assert first.suite("a").p == second.suite("a").p


@pytest.mark.parametrize(
    ("suites", "settings", "message"),
    [
        ([], {}, "give at least one"),
        ([suite_of("t"), suite_of("t")], {}, "each under its own name"),
        ([suite_of("t")], {"alpha": 0.7}, "alpha 0.7"),
        ([suite_of("t")], {"bootstrap": 10}, "at least 200"),
    ],
)
def test_wrong_requests_are_usage_errors(suites: list[Suite], settings: dict[str, Any], message: str) -> None:
    results = {"t": answers("t", [1, 0])}
    with pytest.raises(EvalUsageError, match=message):
        judge(results, results, suites, **settings)


def test_results_that_do_not_pair_are_refused() -> None:
    with pytest.raises(EvalError, match="1 of the original's 3 items"):
        judge({"t": answers("t", [1, 0, 1])}, {"t": answers("t", [1, 0])}, [suite_of("t")])


def test_a_limit_of_200_cannot_decide_a_two_point_margin() -> None:
    suite = suite_of("t", floor=0.97)
    small = power_check(suite, 200)
    assert not small.can_pass
    assert small.can_fail
    assert "mostly be INCONCLUSIVE" in small.message
    assert f"{small.items_needed} items" in small.message
    assert power_check(suite, small.items_needed).can_pass
    # 1.4 points at n = 1319 with 10 % discordant answers, of an ability of 0.7; the pseudo-item adds one
    # item in 1320.
    wide = power_check(suite_of("t"), 1319)
    assert wide.half_width == pytest.approx((1.96 * np.sqrt(0.1 / 1319) + 1 / 1320) / 0.7, rel=0.03)


def test_a_sequence_is_confirmed_up_to_the_first_that_does_not_pass() -> None:
    assert confirmed([]) == 0
    assert confirmed(["PASS", "PASS", "INCONCLUSIVE", "PASS"]) == 2
    assert confirmed(["FAIL", "PASS"]) == 0
    assert confirmed(["PASS", "PASS"]) == 2
