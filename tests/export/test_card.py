"""The card says in words what an interval without an end means."""

from __future__ import annotations

import pytest

from evals.evidence import SuiteEvidence
from prune.packaging.card import _retention


@pytest.mark.parametrize(
    ("retention", "lo", "hi", "words"),
    [
        (0.9, 0.85, 0.95, "90.0 % (85.0–95.0 %)"),
        (0.9, 0.85, None, "90.0 % (at least 85.0 %, no upper limit)"),
        (0.9, None, 1.2, "90.0 % (at most 120.0 %, no lower limit)"),
        (0.9, None, None, "90.0 % (no limit on either side)"),
        (None, None, None, "not defined: the original is not clearly above chance"),
    ],
)
def test_retention_is_said_in_words(retention: float | None, lo: float | None, hi: float | None, words: str) -> None:
    suite = SuiteEvidence(
        name="math", title="Arithmetic", tasks=[], n=10, original=0.9, candidate=0.8, chance=0.0, retention=retention,
        retention_lo=lo, retention_hi=hi, floor=0.95, verdict="INCONCLUSIVE", alpha=0.05,
    )  # fmt: skip
    assert _retention(suite).replace("\N{NO-BREAK SPACE}", " ") == words
