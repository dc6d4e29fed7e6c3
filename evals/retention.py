"""Retention above chance and its interval, from the paired scores of a suite's tasks.

The interval is a paired Bayesian bootstrap (Rubin 1981) over units: weights are Dirichlet(1, ..., 1), which for 0/1
scores of single items is exact over the four outcomes (both right, lost, gained, both wrong). A unit's items, in one
task or several, get one weight, so that answers which depend on each other count as few as they are. The tasks of a
suite count alike, whatever their sizes.

A resample can only hold what was seen: with no lost item among 30, every resample says that nothing is ever lost. So
each end is drawn with one pseudo-unit of the kind that would hurt it, all of its items lost for the lower end and
gained for the upper: with none lost among n single items the lower end of the loss is then Clopper and Pearson's exact
one, Beta(1, n). It is as large as the unit that a random item belongs to. Graded scores get the same, between the ends
of their scale (0 and 1, or what was seen where a score lies outside). Log-likelihoods have no such ends; there the
resamples are widened as Student's t widens a normal interval, counting a few long documents for as few as they are.
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

SMALLEST_MASS = 0.02
"""Of a unit in the Dirichlet: a resample is then nearly one unit alone, and gamma draws do not yet underflow to 0/0."""


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
            Log-likelihoods have no worst value to add, and get none.
        pseudo: mass of the pseudo-unit.
        unit: Dirichlet mass of every real unit; below 1 the resamples are wider.
    """
    table = joint_sums(tasks)  # [tasks, 3, units]
    cells, counts = np.unique(table.reshape(3 * len(tasks), -1), axis=1, return_counts=True)  # [3 tasks, k], [k]
    mass = counts * unit
    if end is not None and any(pairs.aggregation == "mean" for pairs in tasks):
        column = [_pseudo_unit(pairs, sums[2], end) for pairs, sums in zip(tasks, table, strict=True)]
        cells = np.concatenate([cells, np.concatenate(column)[:, None]], axis=1)
        mass = np.append(mass, pseudo)
    gamma = rng.standard_gamma(mass, size=(count, len(mass)))  # [count, k], normalised Dirichlet up to a factor
    sums = (gamma @ cells.T).reshape(count, len(tasks), 3).transpose(1, 2, 0)  # [tasks, 3, count]
    ratio = sums[:, :2] / sums[:, 2:]
    return np.stack([aggregate(r, pairs.aggregation) for r, pairs in zip(ratio, tasks, strict=True)])


def _pseudo_unit(pairs: Pairs, sizes: np.ndarray, end: End) -> np.ndarray:
    """[3] sums of a unit that would hurt this end, given the units' sizes [units]."""
    if pairs.aggregation != "mean":
        return np.zeros(3)
    scores = np.concatenate([pairs.original, pairs.candidate])
    worst, best = min(0.0, scores.min()), max(1.0, scores.max())
    # A lower-is-better metric loses where the candidate scores high.
    lost = (end == "lower") == pairs.higher_is_better
    first, second = (best, worst) if lost else (worst, best)
    return np.array([first, second, 1.0]) * (sizes**2).sum() / sizes.sum()


def unit_mass(pairs: Pairs, alpha: float) -> float:
    """Dirichlet mass of a unit at which an interval over few or unequal documents keeps its level 1 - alpha.

    The variance of a Dirichlet mean over n units of mass a is s^2 / (n a + 1), s^2 without Bessel's correction. a is
    chosen so that this is s^2 / n times (t / z)^2 m / (m - 1), with m = sum(w)^2 / sum(w^2) documents of equal weight
    (Kish 1965) and t of m - 1 degrees of freedom. Scores per item need it only where no pseudo-unit does that work.
    """
    weight = pairs.sums()[2]
    if len(weight) < 2:
        return 1.0
    from scipy.stats import norm, t

    effective = max(2.0, float(weight.sum() ** 2 / (weight**2).sum()))
    widening = (t.ppf(1 - alpha / 2, effective - 1) / norm.ppf(1 - alpha / 2)) ** 2 * effective / (effective - 1)
    return float(max(1 / widening - 1 / len(weight), SMALLEST_MASS))


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
    """Retention over tasks by the paired Bayesian bootstrap.

    One pseudo-unit is shared by the tasks of the suite, in equal parts. Where the original is at chance in more than
    alpha / 2 of the draws, there is no estimate. A single document's log-likelihood has no known spread: its interval
    is infinite.

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
    groups = _sharing(tasks)
    sampled = {}
    for end in ("lower", "upper"):
        values = np.empty((len(tasks), 2, bootstrap))
        for numbers in groups:
            group = [tasks[i] for i in numbers]
            mass = min(1.0 if p.aggregation == "mean" else unit_mass(p, alpha) for p in group)
            values[numbers] = draws(group, rng, bootstrap, end=end, pseudo=len(group) / len(tasks), unit=mass)
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
