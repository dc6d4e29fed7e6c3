"""Two models on the same items: pairing, retention above chance with its interval, McNemar, items needed.

Pure arithmetic on `TaskResult`s. Assumptions: items are exchangeable within a task; scores of one item on the two
models may be correlated in any way, which pairing exploits; the tasks of a suite count alike, whatever their sizes.

The interval is a paired Bayesian bootstrap (Rubin 1981): item weights are Dirichlet(1, ..., 1), which for 0/1 scores
is exact over the four outcomes (both right, lost, gained, both wrong). A resample can only hold what was seen: with
no lost item among 30, every resample says that nothing is ever lost. So each end is drawn with one pseudo-item of the
kind that would hurt it, a lost one for the lower end and a gained one for the upper: with none lost among n the lower
end of the loss is then Clopper and Pearson's exact one, Beta(1, n). Graded scores get the same, between the ends of
their scale (0 and 1, or what was seen where a score lies outside). Log-likelihoods have no such ends; there the
resamples are widened as Student's t widens a normal interval, counting a few long documents for as few as they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from evals.errors import EvalError
from evals.records import Aggregation, TaskResult, aggregate

End = Literal["lower", "upper"]
MOST_ITEMS = 10_000_000
"""Above this many items the answer to 'how many would decide' is: no number in reach."""


@dataclass(frozen=True)
class Pairs:
    """One task's scores on both models, item by item.

    Attributes:
        original, candidate: [n] scores (log-likelihoods in nats for perplexities).
        weight: [n] words or bytes; ones for scores per item.
        chance: value of a model that knows nothing.
    """

    name: str
    original: np.ndarray
    candidate: np.ndarray
    weight: np.ndarray
    aggregation: Aggregation
    higher_is_better: bool
    chance: float

    @property
    def n(self) -> int:
        """Number of items."""
        return len(self.original)

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


def draws(
    pairs: Pairs,
    rng: np.random.Generator,
    count: int,
    *,
    end: End | None = None,
    pseudo: float = 1.0,
    item: float = 1.0,
) -> np.ndarray:
    """Bootstrap values of the metric, [2, count]: row 0 the original, row 1 the candidate.

    Args:
        end: add the pseudo-item that makes this end of the retention interval honest; None adds nothing.
            Log-likelihoods have no worst value to add, and get none.
        pseudo: mass of the pseudo-item.
        item: Dirichlet mass of every real item; below 1 the resamples are wider.
    """
    table = np.stack([pairs.original, pairs.candidate, pairs.weight])  # [3, n]
    cells, counts = np.unique(table, axis=1, return_counts=True)  # [3, k], [k]
    mass = counts * item
    if end is not None and pairs.aggregation == "mean":
        worst, best = min(0.0, table[:2].min()), max(1.0, table[:2].max())
        # A lower-is-better metric loses where the candidate scores high.
        lost = (end == "lower") == pairs.higher_is_better
        first, second = (best, worst) if lost else (worst, best)
        cells = np.concatenate([cells, [[first], [second], [1.0]]], axis=1)
        mass = np.append(mass, pseudo)
    gamma = rng.standard_gamma(mass, size=(count, len(mass)))  # [count, k], normalised Dirichlet up to a factor
    sums = gamma @ cells.T  # [count, 3]
    ratio = sums[:, :2] / sums[:, 2:]
    return np.asarray(aggregate(ratio, pairs.aggregation)).T


def item_mass(pairs: Pairs, alpha: float) -> float:
    """Dirichlet mass of an item at which an interval over few or unequal documents keeps its level 1 - alpha.

    The variance of a Dirichlet mean over n items of mass a is s^2 / (n a + 1), s^2 without Bessel's correction. a is
    chosen so that this is s^2 / n times (t / z)^2 m / (m - 1), with m = sum(w)^2 / sum(w^2) documents of equal weight
    (Kish 1965) and t of m - 1 degrees of freedom. 1 for scores per item, whose pseudo-item does that work.
    """
    if pairs.aggregation == "mean" or pairs.n < 2:
        return 1.0
    from scipy.stats import norm, t

    effective = max(2.0, float(pairs.weight.sum() ** 2 / (pairs.weight**2).sum()))
    widening = (t.ppf(1 - alpha / 2, effective - 1) / norm.ppf(1 - alpha / 2)) ** 2 * effective / (effective - 1)
    return float(max(1 / widening - 1 / pairs.n, 1e-3))


def retention(original: np.ndarray, candidate: np.ndarray, chance: np.ndarray, higher_is_better: bool) -> np.ndarray:
    """Share of the original's ability above chance that the candidate keeps; NaN where the original has none.

    Args:
        original, candidate: [tasks, ...] values of the metric.
        chance: [tasks] values of a model that knows nothing.

    Returns:
        [...] mean(candidate - chance) / mean(original - chance), means over tasks. With a lower-is-better metric and
        no chance level, mean(original) / mean(candidate): the inverse growth of perplexity or bits.
    """
    if not higher_is_better and not chance.any():
        return original.mean(0) / candidate.mean(0)
    level = chance.mean()
    above = original.mean(0) - level
    able = above > 0 if higher_is_better else above < 0
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(able, (candidate.mean(0) - level) / above, np.nan)


@dataclass(frozen=True)
class Interval:
    """Retention of a suite (or one task) with a two-sided interval and p-value against the floor.

    `estimate` is None where the original is not above chance: nothing is there to retain. `lower` and `upper` are
    [count] sorted draws, from which an interval at any level follows.
    """

    estimate: float | None
    lower: np.ndarray
    upper: np.ndarray

    def ends(self, alpha: float) -> tuple[float, float]:
        """Both ends at level 1 - alpha."""
        low = np.quantile(self.lower, alpha / 2, method="lower")  # no interpolation: an end may be infinite
        return float(low), float(np.quantile(self.upper, 1 - alpha / 2, method="higher"))

    def p_value(self, floor: float) -> float:
        """Two-sided p of 'retention equals the floor': twice the smaller share of draws beyond it, never 0."""
        count = len(self.lower)
        below = (1 + int((self.lower < floor).sum())) / (count + 1)
        above = (1 + int((self.upper >= floor).sum())) / (count + 1)
        return min(1.0, 2 * min(below, above))


def retention_interval(tasks: list[Pairs], *, seed: int, bootstrap: int, alpha: float) -> Interval:
    """Retention over tasks by the paired Bayesian bootstrap.

    One pseudo-item is shared by the tasks of the suite, in equal parts. Where the original is at chance in more than
    alpha / 2 of the draws, there is no estimate. A single document's log-likelihood has no known spread: its interval
    is infinite.

    Raises:
        EvalError: tasks that point in different directions.
    """
    directions = {pairs.higher_is_better for pairs in tasks}
    if len(directions) > 1:
        raise EvalError("higher-is-better and lower-is-better tasks cannot be averaged; put them in two suites")
    higher = directions.pop()
    lone = any(pairs.n < 2 and pairs.aggregation != "mean" for pairs in tasks)
    chance = np.array([pairs.chance for pairs in tasks])
    rng = np.random.default_rng(seed)
    sampled = {}
    for end in ("lower", "upper"):
        values = np.stack(
            [draws(p, rng, bootstrap, end=end, pseudo=1 / len(tasks), item=item_mass(p, alpha)) for p in tasks]
        )  # [tasks, 2, count]
        sampled[end] = retention(values[:, 0], values[:, 1], chance, higher)
    observed = np.array([pairs.values() for pairs in tasks])  # [tasks, 2]
    estimate = float(retention(observed[:, 0], observed[:, 1], chance, higher))
    undefined = max(np.isnan(values).mean() for values in sampled.values())
    if math.isnan(estimate) or undefined > alpha / 2:
        return Interval(None, np.empty(0), np.empty(0))
    if lone:
        return Interval(estimate, np.array([-np.inf]), np.array([np.inf]))
    # The few draws in which the original falls to chance say nothing about the candidate: they go to the outside.
    lower = np.sort(np.where(np.isnan(sampled["lower"]), -np.inf, sampled["lower"]))
    upper = np.sort(np.where(np.isnan(sampled["upper"]), np.inf, sampled["upper"]))
    return Interval(estimate, lower, upper)


def value_interval(
    pairs: Pairs, *, seed: int, bootstrap: int, alpha: float
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Interval of the original's and of the candidate's own value: Wilson's for 0/1 scores, else the bootstrap's."""
    if pairs.binary:
        from scipy.stats import binomtest

        def wilson(scores: np.ndarray) -> tuple[float, float]:
            found = binomtest(int(scores.sum()), pairs.n).proportion_ci(1 - alpha, method="wilson")
            return float(found.low), float(found.high)

        return wilson(pairs.original), wilson(pairs.candidate)
    sampled = draws(pairs, np.random.default_rng(seed), bootstrap, item=item_mass(pairs, alpha))
    ends = np.quantile(sampled, [alpha / 2, 1 - alpha / 2], axis=1)  # [2, 2]
    return (float(ends[0, 0]), float(ends[1, 0])), (float(ends[0, 1]), float(ends[1, 1]))


@dataclass(frozen=True)
class McNemar:
    """Items only the original got right (`lost`), only the candidate (`gained`), and the exact two-sided p."""

    lost: int
    gained: int
    p: float


def mcnemar(pairs: Pairs) -> McNemar | None:
    """McNemar's exact test on the discordant items; None where scores are not 0/1."""
    from scipy.stats import binomtest

    if not pairs.binary:
        return None
    lost = int(((pairs.original == 1) & (pairs.candidate == 0)).sum())
    gained = int(((pairs.original == 0) & (pairs.candidate == 1)).sum())
    return McNemar(lost, gained, float(binomtest(lost, lost + gained).pvalue) if lost + gained else 1.0)


def items_needed(n: int, estimate: float, low: float, high: float, floor: float) -> int | None:
    """Items at which the interval would leave the floor, if the estimate held; None where no number in reach does.

    The half-width towards the floor shrinks as 1 / sqrt(n).
    """
    gap = abs(estimate - floor)
    side = estimate - low if estimate >= floor else high - estimate
    if not math.isfinite(side) or gap * math.sqrt(MOST_ITEMS) <= side * math.sqrt(n):
        return None
    return max(n + 1, math.ceil(n * (side / gap) ** 2))
