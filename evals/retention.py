"""Retention above chance and its interval, from the paired scores of a suite's tasks.

The interval is a paired Bayesian bootstrap (Rubin 1981) over units: weights are Dirichlet(1, ..., 1), which for 0/1
scores of single items is exact over the four outcomes (both right, lost, gained, both wrong). A unit's items, in one
task or several, get one weight, so that answers which depend on each other count as few as they are. The tasks of a
suite count alike, whatever their sizes.

A resample can only hold what was seen: with no lost item among 30, every resample says that nothing is ever lost. So
each end is drawn with one pseudo-unit of the kind that would hurt it, all of its items lost for the lower end and
gained for the upper (Gaffke 2005: for a bounded score of one task that bound holds whatever the distribution; with
none lost among n items it is Clopper and Pearson's exact one, Beta(1, n)). The ends are those of the score's scale: 0
and 1, or what was seen where a score lies outside; for a text, the loss of a model that knows nothing (`ignorance`).

In a suite the pseudo-unit stands whole where it hurts most, as Fay and Feuer (1997) give it the largest weight: an item
of a small task weighs more than one of a large task, and its loss may be all the loss there is. Every other task gets
`FEW` / units of one, a whole one where it is so small that its items are no longer rare events.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from evals.errors import EvalError
from evals.paired import Pairs, joint_sums
from evals.records import aggregate

End = Literal["lower", "upper"]
ENDS: tuple[End, End] = ("lower", "upper")

FEW = 10
"""Units up to which every task of a suite gets a whole pseudo-unit; with more, this many units' share of one."""
RARE = 0.05
"""Share of a task's items that the largest units must hold to be thought of as the place of all losses."""
MOST_LONGER = 50
"""Times the longest text seen."""
TIMES_WORSE = 10
"""A perplexity has no natural end: no kind of text is allowed for on which the candidate loses more, in nats."""
SMALLEST_MASS = 0.02
"""Of a unit in the Dirichlet: a resample is then nearly one unit alone, and gamma draws do not yet underflow to 0/0."""


class _Group:
    """Tasks that share units, as the bootstrap sees them: every unit's sums, equal units put together.

    Attributes:
        table: [tasks, 3, units] `joint_sums`.
        cells, counts: [3 tasks, k] distinct columns of the table, [k] how often each occurs.
    """

    def __init__(self, tasks: Sequence[Pairs]) -> None:
        self.tasks = tasks
        self.table = joint_sums(tasks)
        flat = self.table.reshape(3 * len(tasks), -1)
        self.cells, self.counts = _distinct_columns(flat)

    @property
    def units(self) -> int:
        return self.table.shape[2]

    def draw(self, rng: np.random.Generator, count: int, *, end: End | None, pseudo: float, unit: float) -> np.ndarray:
        """As `draws`."""
        cells, mass = self.cells, self.counts * unit
        if end is not None:
            cells = np.concatenate([cells, _pseudo_unit(self.tasks, self.table, end).reshape(-1, 1)], axis=1)
            mass = np.append(mass, pseudo)
        gamma = rng.standard_gamma(mass, size=(count, len(mass)))  # [count, k], normalised Dirichlet up to a factor
        sums = (gamma @ cells.T).reshape(count, len(self.tasks), 3).transpose(1, 2, 0)  # [tasks, 3, count]
        return _values(self.tasks, sums)

    def harm(self, end: End) -> float:
        """How far one pseudo-unit moves the metrics, summed over tasks and models."""
        sums = self.table.sum(2)  # [tasks, 3]
        moved = _values(self.tasks, sums + _pseudo_unit(self.tasks, self.table, end))
        return float(np.abs(moved - _values(self.tasks, sums)).sum())


def _distinct_columns(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[rows, k] distinct columns and [k] their counts."""
    order = np.lexsort(table)
    ordered = table[:, order]
    first = np.append(True, (ordered[:, 1:] != ordered[:, :-1]).any(0))
    starts = np.flatnonzero(first)
    return ordered[:, starts], np.diff(np.append(starts, table.shape[1]))


def draws(
    tasks: Sequence[Pairs],
    rng: np.random.Generator,
    count: int,
    *,
    end: End | None = None,
    pseudo: float = 1.0,
    unit: float = 1.0,
) -> np.ndarray:
    """Bootstrap values of the metric of tasks that share units, [tasks, 2, count]: row 0 the original, 1 the candidate.

    Args:
        end: add the pseudo-unit that makes this end of the retention interval honest; None adds nothing.
        pseudo: mass of the pseudo-unit.
        unit: Dirichlet mass of every real unit; below 1 the resamples are wider.
    """
    return _Group(tasks).draw(rng, count, end=end, pseudo=pseudo, unit=unit)


def _values(tasks: Sequence[Pairs], sums: np.ndarray) -> np.ndarray:
    """[tasks, 2, ...] metric of original and candidate from [tasks, 3, ...] sums of scores and weights."""
    ratio = sums[:, :2] / sums[:, 2:]
    return np.stack([aggregate(r, pairs.aggregation) for r, pairs in zip(ratio, tasks, strict=True)])


def ignorance(pairs: Pairs, scores: np.ndarray) -> float:
    """Log-likelihood per unit of weight, in nats, of the worst document that is allowed for.

    Bits per byte: 8, a guess that spreads evenly over all bytes. Perplexities have no such end: `TIMES_WORSE` the
    mean of `scores` [n]. Or the worst document seen, where that is worse.
    """
    seen = float((scores / pairs.weight).min())
    mean = float(scores.sum() / pairs.weight.sum())
    return min(seen, -math.log(256) if pairs.aggregation == "bits_per_byte" else TIMES_WORSE * mean)


def _large(pairs: Pairs, sizes: np.ndarray) -> float:
    """The size of [units] that a random item's unit exceeds with a chance of `RARE`; of texts `longer_than_seen`."""
    if pairs.aggregation != "mean":
        return longer_than_seen(sizes)
    ordered = np.sort(sizes)
    held = np.cumsum(ordered)
    return float(ordered[np.searchsorted(held, (1 - RARE) * held[-1])])


def longer_than_seen(sizes: np.ndarray) -> float:
    """Mean length of the texts that are longer than all of [units] seen, if their lengths have a Pareto tail.

    The longest texts are where a loss hides best, and a sample without its few longest shows nothing of them. Above the
    longest one seen, x, the mean is x a / (a - 1); the index a is Hill's (1975) of the sqrt(n) longest, the inverse of
    their mean log-excess over the next one. Lengths with an end, such as those of cut documents, have a large index and
    lose little; lengths that seem to have no mean, `MOST_LONGER` times the longest.
    """
    ordered = np.sort(sizes[sizes > 0])
    count = min(len(ordered) - 1, max(5, math.ceil(math.sqrt(len(ordered)))))
    excess = float(np.log(ordered[-count:] / ordered[-count - 1]).mean()) if count > 0 else 0.0
    return float(ordered[-1] / max(1 - excess, 1 / MOST_LONGER))


def _pseudo_unit(tasks: Sequence[Pairs], table: np.ndarray, end: End) -> np.ndarray:
    """[tasks, 3] sums of a unit that would hurt this end.

    It is as large as the units that hold the last twentieth of the items, for these may be where the losses are, or as
    texts longer than all that were seen; where all are alike, as large as they.

    Args:
        table: [tasks, 3, units] sums of the real units.
    """
    column = np.empty((len(tasks), 3))
    for row, pairs, sums in zip(column, tasks, table, strict=True):
        scores = np.concatenate([pairs.original, pairs.candidate])
        if pairs.aggregation == "mean":
            worst, best = min(0.0, scores.min()), max(1.0, scores.max())
            # A lower-is-better metric loses where the candidate scores high.
            lost = (end == "lower") == pairs.higher_is_better
            row[:] = (best, worst, 1.0) if lost else (worst, best, 1.0)
        else:  # a document ordinary to one model and beyond the other
            first, second = pairs.original, pairs.candidate
            ordinary = (first if end == "lower" else second).sum() / pairs.weight.sum()
            beyond = ignorance(pairs, second if end == "lower" else first)
            row[:] = (ordinary, beyond, 1.0) if end == "lower" else (beyond, ordinary, 1.0)
        row *= _large(pairs, sums[2])
    return column


def unit_mass(pairs: Pairs, alpha: float) -> float:
    """Dirichlet mass of a unit at which an interval over few or unequal documents keeps its level 1 - alpha.

    The variance of a Dirichlet mean over n units of mass a is s^2 / (n a + 1), s^2 without Bessel's correction. a is
    chosen so that this is s^2 / n times (t / z)^2 m / (m - 1), with m = sum(w)^2 / sum(w^2) documents of equal weight
    (Kish 1965) and t of m - 1 degrees of freedom. Scores per item need it only where no pseudo-unit does that work.
    """
    weight = pairs.sums()[2]
    return document_mass(float(weight.sum() ** 2 / (weight**2).sum()), len(weight), alpha)


def document_mass(effective: float, units: int, alpha: float) -> float:
    """`unit_mass` of so many documents that count as `effective` ones of equal weight."""
    if units < 2:
        return 1.0
    from scipy.stats import norm, t

    effective = max(2.0, effective)
    widening = (t.ppf(1 - alpha / 2, effective - 1) / norm.ppf(1 - alpha / 2)) ** 2 * effective / (effective - 1)
    return float(max(1 / widening - 1 / units, SMALLEST_MASS))


def counted_units(pairs: Pairs) -> float:
    """Units that a task's items count as, were all as large as the one whose loss is allowed for."""
    sizes = pairs.sums()[2]
    return float(sizes.sum() / _large(pairs, sizes))


def _sharing(tasks: Sequence[Pairs]) -> list[list[int]]:
    """Numbers of the tasks, in groups that share units; a task that shares none is a group of its own."""
    groups: list[tuple[set[object], list[int]]] = []
    for number, pairs in enumerate(tasks):
        units: set[object] = set() if pairs.unit is None else set(pairs.unit.tolist())
        meeting = [group for group in groups if not units.isdisjoint(group[0])]
        groups = [group for group in groups if group not in meeting]
        groups.append((units.union(*(g[0] for g in meeting)), [*(i for g in meeting for i in g[1]), number]))
    return [sorted(numbers) for _, numbers in groups]


def count_units(tasks: Sequence[Pairs]) -> int:
    """Independent units of a suite: a unit that two tasks share counts once."""
    groups = [[tasks[i] for i in numbers] for numbers in _sharing(tasks)]
    return sum(joint_sums(group).shape[2] for group in groups)


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
    """Retention over tasks by the paired Bayesian bootstrap, a pseudo-unit where it hurts most.

    Where the original is at chance in more than alpha / 2 of the draws, there is no estimate. A single document's
    log-likelihood has no known spread: its interval is infinite.

    Raises:
        EvalError: tasks that point in different directions.
    """
    directions = {pairs.higher_is_better for pairs in tasks}
    if len(directions) > 1:
        raise EvalError("higher-is-better and lower-is-better tasks cannot be averaged; put them in two suites")
    higher = directions.pop()
    lone = any(pairs.units < 2 and pairs.aggregation != "mean" for pairs in tasks)
    chance = np.array([pairs.chance for pairs in tasks])
    rng = np.random.default_rng(seed)
    groups = [(numbers, _Group([tasks[i] for i in numbers])) for numbers in _sharing(tasks)]
    sampled = {}
    for end in ENDS:
        values = _suite_draws(groups, rng, bootstrap, end, alpha)
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


def masses(units: int, worst: bool) -> tuple[float, float]:
    """Dirichlet mass of the pseudo-unit and of every real one, in tasks of so many units.

    Args:
        worst: the pseudo-unit hurts more here than in the suite's other tasks.
    """
    if worst:
        return 1.0, 1.0
    # The variance of a Dirichlet mean is s^2 / (units + 1); of the mean itself, s^2 / (units - 1).
    return min(1.0, FEW / units), max(1 - 2 / units, 0.5)


def _suite_draws(
    groups: Sequence[tuple[list[int], _Group]], rng: np.random.Generator, count: int, end: End, alpha: float
) -> np.ndarray:
    """[tasks, 2, count] draws of every task's metric for one end, tasks that share units drawn together.

    Args:
        groups: numbers of tasks that share units, and their group.
    """
    values = np.empty((sum(len(numbers) for numbers, _ in groups), 2, count))
    worst = int(np.argmax([group.harm(end) for _, group in groups]))
    for place, (numbers, group) in enumerate(groups):
        mass = min(1.0 if p.aggregation == "mean" else unit_mass(p, alpha) for p in group.tasks)
        pseudo, unit = masses(group.units, place == worst)
        values[numbers] = group.draw(rng, count, end=end, pseudo=pseudo, unit=min(mass, unit))
    return values


def value_interval(
    pairs: Pairs, *, seed: int, bootstrap: int, alpha: float
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Interval of the original's and the candidate's own value: Wilson's for 0/1 scores of single items, else the
    bootstrap's."""
    if pairs.binary and pairs.units == pairs.n:
        from scipy.stats import binomtest

        def wilson(scores: np.ndarray) -> tuple[float, float]:
            found = binomtest(int(scores.sum()), pairs.n).proportion_ci(1 - alpha, method="wilson")
            return float(found.low), float(found.high)

        return wilson(pairs.original), wilson(pairs.candidate)
    (sampled,) = draws([pairs], np.random.default_rng(seed), bootstrap, unit=unit_mass(pairs, alpha))
    ends = np.quantile(sampled, [alpha / 2, 1 - alpha / 2], axis=1)  # [2, 2]
    return (float(ends[0, 0]), float(ends[1, 0])), (float(ends[0, 1]), float(ends[1, 1]))
