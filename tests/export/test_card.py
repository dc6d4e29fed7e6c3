"""The card says in words what an interval without an end means."""

from __future__ import annotations

import pytest

from evals.evidence import SuiteEvidence
from prune.packaging.card import _healing, _retention


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


def test_the_card_does_not_call_healed_what_training_left_as_it_was() -> None:
    record = {"settings": {"method": "lora", "distill_weight": 1.0}, "steps": 20, "tokens_seen": 4096}
    assert _healing({**record, "best_step": 15}).startswith("It was then healed with lora for 20 steps")
    assert "distilling from the source" in _healing(record)
    assert "distilling from `wiser`" in _healing({**record, "teacher": "wiser"})
    assert "these are the weights of the cut" in _healing({**record, "best_step": 0})
