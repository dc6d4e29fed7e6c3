"""A suite too small for its claim says which task lacks how many items, and the bootstrap agrees."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from evals.gate import judge
from evals.paired import Pairs
from evals.records import Record, TaskResult
from evals.retention import retention_interval
from evals.shortfall import shortfalls
from evals.suite import Suite, TaskSpec
from tests.evals.test_gate import answers, right, suite_of
from tests.evals.test_paired import pairs_of


def equal(n: int, **changes: Any) -> Pairs:
    scores = right(n, 0.7)
    return pairs_of(scores, scores, **changes)


def texts(n: int) -> Pairs:
    nats = np.full(n, -100.0)
    return pairs_of(nats, nats, weight=np.full(n, 160.0), aggregation="bits_per_byte", higher_is_better=False)


@pytest.mark.parametrize("make", [equal, texts, lambda n: equal(n, chance=0.25)])
@pytest.mark.parametrize("floor", [0.95, 0.8])
def test_an_equal_candidate_passes_from_the_number_that_is_named(make: Any, floor: float) -> None:
    (short,) = shortfalls([make(10)], floor, 0.05)
    assert short.items == 10

    def low(n: int) -> float:
        return retention_interval([make(n)], seed=0, bootstrap=4000, alpha=0.05).ends(0.05)[0]

    assert low(round(short.needed * 0.9)) < floor < low(round(short.needed * 1.2))
    assert not shortfalls([make(short.needed)], floor, 0.05)


def test_the_verdict_names_the_task_that_is_too_small() -> None:
    results = {"tiny": answers("tiny", right(10, 0.7)), "large": answers("large", right(900, 0.7))}
    for key, result in results.items():
        for record in result.records:
            record.extra["cluster"] = f"{key}{record.doc_id}"
    found = judge(results, results, [suite_of("tiny", "large", name="s")]).suite("s")
    assert found.verdict == "INCONCLUSIVE"
    assert "task tiny: a loss beyond the margin may hide beside its 10 items" in found.note
    assert "large" not in found.note
    assert found.items_needed is not None
    assert found.items_needed > 910


def test_fifty_texts_are_inconclusive_and_say_what_is_missing() -> None:
    records = [Record(i, f"d{i}", f"p{i}", -100.0, {"weight": 160.0}) for i in range(50)]
    text = TaskResult("t", "bits_per_byte", "none", records, aggregation="bits_per_byte", higher_is_better=False)
    suite = Suite(name="s", tasks=[TaskSpec(task="t", metric="bits_per_byte")])
    found = judge({"t": text}, {"t": text}, [suite]).suite("s")
    assert found.verdict == "INCONCLUSIVE"
    assert "beside its 50 items unseen; a PASS takes about" in found.note


def test_unequal_texts_count_as_fewer() -> None:
    weight = np.r_[np.full(3, 1e5), np.full(2000, 100.0)]
    few = pairs_of(-weight * 0.6, -weight * 0.6, weight=weight, aggregation="bits_per_byte", higher_is_better=False)
    (short,) = shortfalls([few], 0.95, 0.05)
    assert short.units == 3  # as many as such texts, when one longer than these may come
    assert "count as 3 independent ones" in str(short)
