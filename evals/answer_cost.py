"""What an answer takes, and what a correct one does: tokens per answer beside tokens per second.

A model that answers in more words is dearer than its speed says, and one that is wrong more often must be asked more
often. Both are counted from the answers that were scored, paired by question. Assumption: an answer's length is that of
its text up to the stop sequence, in the model's own tokens.
"""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from evals.records import TaskResult

TOKENS = "response_tokens"
"""Where a record keeps the length of its answer."""


class AnswerCost(BaseModel):
    """Lengths of one generating task's answers."""

    model_config = ConfigDict(extra="forbid")

    original_tokens: float = Field(description="mean tokens of an answer of the original")
    candidate_tokens: float
    ratio: float | None = Field(description="candidate's tokens over the original's, same questions; null: no tokens")
    ratio_lo: float | None = Field(default=None, description="ends of the paired bootstrap interval over units")
    ratio_hi: float | None = None
    original_per_correct: float | None = Field(description="tokens of all answers for each correct one; null: none is")
    candidate_per_correct: float | None

    def price(self, per_million: float, *, candidate: bool) -> float | None:
        """Money for one correct answer at a price for a million decoded tokens; None where none is correct."""
        tokens = self.candidate_per_correct if candidate else self.original_per_correct
        return None if tokens is None else tokens * per_million / 1e6


def answer_cost(
    original: TaskResult, candidate: TaskResult, *, seed: int, bootstrap: int, alpha: float
) -> AnswerCost | None:
    """Compare the answers' lengths; None where nothing was generated or lengths were not kept.

    Args:
        original, candidate: the same items on both models, scores of 0 to 1 where higher is better.
        seed, bootstrap: of the resampling over units, items of one cluster together.
        alpha: the interval covers 1 - alpha.
    """
    if original.aggregation != "mean" or not original.higher_is_better:
        return None
    theirs = {record.key: record for record in candidate.records}
    pairs = [(record, theirs[record.key]) for record in original.records]
    if not all(TOKENS in a.extra and TOKENS in b.extra for a, b in pairs):
        return None
    tokens = np.array([[a.extra[TOKENS], b.extra[TOKENS]] for a, b in pairs], dtype=float)  # [n, 2]
    right = [sum(max(0.0, record.score) for record in side) for side in zip(*pairs, strict=True)]
    _, unit = np.unique([record.unit for record, _ in pairs], return_inverse=True)
    sums = np.stack([np.bincount(unit, column) for column in tokens.T], axis=1)  # [units, 2]
    total = tokens.sum(axis=0)  # [2]
    low = high = None
    if total[0] > 0 and len(sums) > 1:
        drawn = np.random.default_rng(seed).multinomial(len(sums), np.full(len(sums), 1 / len(sums)), bootstrap) @ sums
        drawn = drawn[drawn[:, 0] > 0]
        low, high = (float(end) for end in np.quantile(drawn[:, 1] / drawn[:, 0], [alpha / 2, 1 - alpha / 2]))
    per_correct = [float(all_of / count) if count else None for all_of, count in zip(total, right, strict=True)]
    return AnswerCost(
        original_tokens=float(total[0] / len(pairs)),
        candidate_tokens=float(total[1] / len(pairs)),
        ratio=float(total[1] / total[0]) if total[0] > 0 else None,
        ratio_lo=low,
        ratio_hi=high,
        original_per_correct=per_correct[0],
        candidate_per_correct=per_correct[1],
    )
