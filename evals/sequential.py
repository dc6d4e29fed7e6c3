"""Judging in looks: a few items first, more only while the interval does not decide.

Assumption: the items of a look contain those of the looks before it. The level is shared out equally over the looks
(Bonferroni), so that stopping at the first decision keeps the error rate over all of them at or below `alpha`, however
the looks depend on one another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from evals.errors import EvalUsageError
from evals.evidence import Evidence
from evals.gate import judge
from evals.records import TaskResult
from evals.suite import Suite

Score = Callable[[int], Mapping[str, TaskResult]]
"""Results of one model on the first so many items of every task."""


def judge_in_looks(
    original: Score,
    candidate: Score,
    suites: Sequence[Suite],
    looks: Sequence[int],
    *,
    alpha: float = 0.05,
    seed: int = 0,
    bootstrap: int = 2000,
) -> list[tuple[int, Evidence]]:
    """Judge after each look, and stop when every suite passes or one fails.

    Args:
        looks: items per task at each look, increasing.
        alpha: two-sided level over all looks and suites together.

    Returns:
        Each look that was taken, with its evidence; the last one counts.

    Raises:
        EvalUsageError: no looks, or not increasing.
        EvalError: as `judge`.
    """
    check_looks(looks)
    taken: list[tuple[int, Evidence]] = []
    for items in looks:
        evidence = judge(
            original(items), candidate(items), suites, alpha=alpha / len(looks), seed=seed, bootstrap=bootstrap
        )
        taken.append((items, evidence))
        if evidence.overall != "INCONCLUSIVE":
            break
    return taken


def check_looks(looks: Sequence[int]) -> None:
    """Refuse looks that are no plan.

    Raises:
        EvalUsageError: none, a count below 1, or not increasing.
    """
    if not looks or looks[0] < 1 or any(b <= a for a, b in pairwise(looks)):
        raise EvalUsageError(f"looks {list(looks)}: give increasing numbers of items, such as [50, 100, 200]")
