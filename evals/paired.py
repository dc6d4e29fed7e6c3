"""Two models on the same items: pairing, what depends on what, a paired test, items needed.

Pure arithmetic on `TaskResult`s. Assumptions: items are exchangeable within a task; scores of one item on the two
models may be correlated in any way, which pairing exploits. Items that share a `unit` (questions about one passage, one
question asked by two tasks) may depend on each other in any way; units are independent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evals.errors import EvalError
from evals.records import Aggregation, TaskResult, aggregate

MOST_ITEMS = 10_000_000
"""Above this many items the answer to 'how many would decide' is: no number in reach."""


@dataclass(frozen=True)
class Pairs:
    """One task's scores on both models, item by item.

    Attributes:
        original, candidate: [n] scores (log-likelihoods in nats for perplexities).
        weight: [n] words or bytes; ones for scores per item.
        chance: value of a model that knows nothing.
        unit: [n] labels; items of one label (in this task or another) may depend on each other. None: none do.
    """

    name: str
    original: np.ndarray
    candidate: np.ndarray
    weight: np.ndarray
    aggregation: Aggregation
    higher_is_better: bool
    chance: float
    unit: np.ndarray | None = None

    @property
    def n(self) -> int:
        """Number of items."""
        return len(self.original)

    @property
    def units(self) -> int:
        """Number of independent units; `n` where no item shares one."""
        return self.n if self.unit is None else len(np.unique(self.unit))

    @property
    def binary(self) -> bool:
        """Whether every score is 0 or 1."""
        return self.aggregation == "mean" and bool(
            np.isin(np.concatenate([self.original, self.candidate]), (0, 1)).all()
        )

    def values(self) -> tuple[float, float]:
        """The metric of the original and of the candidate."""
        total = self.weight.sum()
        return tuple(float(aggregate(s.sum() / total, self.aggregation)) for s in (self.original, self.candidate))  # type: ignore[return-value]

    def sums(self) -> np.ndarray:
        """[3, units] sums over each unit's items: the original's scores, the candidate's, the weights."""
        return joint_sums([self])[0]


def joint_sums(tasks: Sequence[Pairs]) -> np.ndarray:
    """[tasks, 3, units] `Pairs.sums` over the units of all tasks; 0 where a task has no item of a unit."""
    if len(tasks) == 1 and tasks[0].unit is None:
        return np.stack([tasks[0].original, tasks[0].candidate, tasks[0].weight])[None]
    labels = [
        pairs.unit if pairs.unit is not None else np.array([f"{i}/{j}" for j in range(pairs.n)])
        for i, pairs in enumerate(tasks)
    ]
    distinct, index = np.unique(np.concatenate(labels), return_inverse=True)
    places = np.split(index, np.cumsum([pairs.n for pairs in tasks])[:-1])
    return np.array(
        [
            [np.bincount(place, row, len(distinct)) for row in (pairs.original, pairs.candidate, pairs.weight)]
            for pairs, place in zip(tasks, places, strict=True)
        ]
    )


def pair(original: TaskResult, candidate: TaskResult, chance: float = 0.0) -> Pairs:
    """Match two results of one task item by item.

    Raises:
        EvalError: they are not about the same questions (documents, prompts, metric or weights differ), or limits in
            tokens cut them at different places because the tokenizers differ.
    """
    name = original.name
    for attribute in ("task", "metric", "filter", "aggregation", "higher_is_better"):
        ours, theirs = getattr(original, attribute), getattr(candidate, attribute)
        if ours != theirs:
            raise EvalError(f"task {name}: {attribute} is {ours!r} for the original and {theirs!r} for the candidate")
    _refuse_other_lengths(original, candidate)
    ours, theirs = ({r.key: r for r in result.records} for result in (original, candidate))
    if len(ours) != original.n or len(theirs) != candidate.n:
        raise EvalError(f"task {name}: an item appears twice (same document and prompt); remove it from the data")
    if ours.keys() != theirs.keys():
        raise EvalError(f"task {name}: {_difference(original, candidate)}")
    keys = [r.key for r in original.records]
    weights = np.array([ours[k].weight for k in keys])
    if not np.array_equal(weights, [theirs[k].weight for k in keys]):
        raise EvalError(f"task {name}: the two runs count words or bytes differently; evaluate both with one version")
    return Pairs(
        name,
        np.array([ours[k].score for k in keys]),
        np.array([theirs[k].score for k in keys]),
        weights,
        original.aggregation,
        original.higher_is_better,
        chance,
        np.array([ours[k].unit for k in keys]),
    )


def _refuse_other_lengths(original: TaskResult, candidate: TaskResult) -> None:
    """Two tokenizers may be compared on texts, but not where a limit in tokens cut a prompt or an answer."""
    stats = (original.stats, candidate.stats)
    if len({found.get("tokenizer") for found in stats}) < 2:
        return
    for key, what, cure in (
        ("truncation_rate", "answers", "raise max_gen_toks until none is cut off"),
        ("overlong_prompts", "prompts", "ask with fewer examples (num_fewshot) until all fit"),
    ):
        if any(found.get(key) for found in stats):
            raise EvalError(
                f"task {original.name}: the candidate has another tokenizer, and {what} were cut at a number of "
                f"tokens, which is another length of text for each model; {cure}, or leave this task out"
            )


def _difference(original: TaskResult, candidate: TaskResult) -> str:
    documents, others = ({(r.doc_id, r.doc_hash) for r in result.records} for result in (original, candidate))
    if documents == others:
        return "the prompts differ (shots, seed, chat template or wording); run both models with the same settings"
    return (
        f"{len(documents - others)} of the original's {len(documents)} items are not among the candidate's "
        f"{len(others)}; run both on the same data with the same limit"
    )


@dataclass(frozen=True)
class PairedTest:
    """Items only the original got right (`lost`), only the candidate (`gained`), and the exact two-sided p."""

    lost: int
    gained: int
    p: float


def paired_test(pairs: Pairs) -> PairedTest | None:
    """Exact test that both models are equally often right; None where scores are not 0/1.

    McNemar's where every item is a unit of its own. Otherwise its form for units: given the size of every unit's
    difference d = gained - lost, each sign is as likely as the other, and p is the share of all 2^units choices of
    signs whose sum is at least as far from 0 as what was seen (Fisher's randomization test; for |d| = 1 McNemar's).
    """
    if not pairs.binary:
        return None
    lost = int(((pairs.original == 1) & (pairs.candidate == 0)).sum())
    gained = int(((pairs.original == 0) & (pairs.candidate == 1)).sum())
    sums = pairs.sums()
    return PairedTest(lost, gained, _sign_flip((sums[1] - sums[0]).astype(int)))


def _sign_flip(differences: np.ndarray) -> float:
    """P(|sum of +-d| >= |sum of d|), signs fair coins. The distribution is the product of (x^d + x^-d) / 2."""
    from scipy.stats import binom

    sizes, counts = np.unique(np.abs(differences[differences != 0]), return_counts=True)
    chances = np.ones(1)  # of the sums -reach, ..., reach
    for size, count in zip(sizes, counts, strict=True):
        coins = np.zeros(2 * size * count + 1)
        coins[:: 2 * size] = binom.pmf(np.arange(count + 1), count, 0.5)
        chances = np.convolve(chances, coins)
    reach = len(chances) // 2
    far = np.abs(np.arange(-reach, reach + 1)) >= abs(int(differences.sum()))
    return float(min(1.0, chances[far].sum()))


def items_needed(n: int, estimate: float, low: float, high: float, floor: float) -> int | None:
    """Items at which the interval would leave the floor, if the estimate held; None where no number in reach does.

    The half-width towards the floor shrinks as 1 / sqrt(n).
    """
    gap = abs(estimate - floor)
    side = estimate - low if estimate >= floor else high - estimate
    if not math.isfinite(side) or gap * math.sqrt(MOST_ITEMS) <= side * math.sqrt(n):
        return None
    return max(n + 1, math.ceil(n * (side / gap) ** 2))
