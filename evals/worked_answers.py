"""Bits per byte of a reference solution, given its question: mathematics that a small model can show.

An item's score is the log-likelihood (nats) of a space and the solution after the question, with the bytes of
the solution in UTF-8; over items it is -(sum of log-likelihoods) / (sum of bytes x ln 2). The solution is the data
set's own text (GSM8K's with its <<...>> annotations), so figures of other ways of writing it do not compare.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Results = Sequence[tuple[float, bool]]
"""What lm-eval hands over: one pair of log-likelihood and whether greedy decoding gives the same."""


def gsm8k(doc: Mapping[str, Any], results: Results) -> dict[str, tuple[float, int]]:
    """Log-likelihood and bytes of GSM8K's solution."""
    return _scored(doc["answer"], results)


def math500(doc: Mapping[str, Any], results: Results) -> dict[str, tuple[float, int]]:
    """Log-likelihood and bytes of MATH-500's solution."""
    return _scored(doc["solution"], results)


def _scored(solution: str, results: Results) -> dict[str, tuple[float, int]]:
    return {"bits_per_byte": (results[0][0], len(solution.encode()))}
