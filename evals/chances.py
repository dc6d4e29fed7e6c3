"""How often the gate would give each verdict, by its own rule, on experiments drawn from a task's expected outcomes.

The gate asks how many of its resamples lie beyond the floor. Here thousands of experiments are drawn and that share is
computed for each from the first three moments of its resamples, which are known (a Dirichlet mean's), taken as those of
a shifted gamma distribution: exact in the limits of many outcomes and of a single rare one. Independent simulations of
the gate agree within three points (`tests/evals/test_power.py`). Assumption: tasks share no items.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evals.retention import ENDS, End, masses

EXPERIMENTS = 4000
RESAMPLES = 2000
"""Of `judge`: an experiment whose share of resamples beyond the floor is near the level may be taken either way."""
MOST_OUTCOMES = 60
"""More distinct outcomes of a unit are put together by the neighbours in their value."""


@dataclass(frozen=True)
class Outcomes:
    """What may happen to one independent unit of a task, measured as what it adds to the claim.

    Attributes:
        value: [k] what the candidate keeps beyond the floor: candidate - floor x original, chance subtracted. Its
            mean over units and tasks is 0 exactly at the floor.
        share: [k] probabilities.
        lost, gained: value of the unit that hurts the lower and the upper end.
        harm: for both ends, how far such a unit lies from the ordinary one, summed over the two models.
        mass: Dirichlet mass of a unit (`document_mass`).
    """

    value: np.ndarray
    share: np.ndarray
    lost: float
    gained: float
    harm: tuple[float, float]
    mass: float = 1.0

    def grouped(self) -> Outcomes:
        """The same with no more than `MOST_OUTCOMES` values, each the mean of its neighbours."""
        if len(self.value) <= MOST_OUTCOMES:
            return self
        order = np.argsort(self.value)
        value, share = self.value[order], self.share[order]
        place = np.minimum((np.cumsum(share) * MOST_OUTCOMES).astype(int), MOST_OUTCOMES - 1)
        total = np.bincount(place, share, MOST_OUTCOMES)
        kept = total > 0
        mean = np.bincount(place, share * value, MOST_OUTCOMES)[kept] / total[kept]
        return Outcomes(mean, total[kept], self.lost, self.gained, self.harm, self.mass)


@dataclass(frozen=True)
class Chances:
    """Shares of experiments with that verdict."""

    passed: float
    failed: float


def chances(tasks: Sequence[Outcomes], units: Sequence[int], alpha: float, experiments: int = EXPERIMENTS) -> Chances:
    """Verdicts of a suite with so many units in each task, at level `alpha`."""
    from scipy.special import bdtr

    drawn = _Experiments(tasks, units, experiments)
    most = math.floor(alpha / 2 * (RESAMPLES - 1))  # resamples beyond the floor that a verdict bears
    verdicts = {}
    for end in ENDS:
        mean, spread, skew = drawn.resamples(end)
        below = gamma_below(-mean / spread, skew)
        beyond = below if end == "lower" else 1 - below
        verdicts[end] = float(np.mean(bdtr(most, RESAMPLES, beyond)))
    return Chances(verdicts["lower"], verdicts["upper"])


def half_width(tasks: Sequence[Outcomes], units: Sequence[int], alpha: float) -> float:
    """Mean distance from what is measured to the lower end, in units of `Outcomes.value`."""
    drawn = _Experiments(tasks, units, EXPERIMENTS)
    mean, spread, skew = drawn.resamples("lower")
    return float((drawn.measured() - mean - spread * gamma_quantile(alpha / 2, skew)).mean())


class _Experiments:
    """Experiments on a suite: how often each outcome was seen in each task, [experiments, k] a task."""

    def __init__(self, tasks: Sequence[Outcomes], units: Sequence[int], experiments: int) -> None:
        rng = np.random.default_rng(0)  # the same for every candidate and size, so that searches run smoothly
        self.tasks = [task.grouped() for task in tasks]
        self.units = units
        self.counts = [rng.multinomial(n, task.share, experiments) for n, task in zip(units, self.tasks, strict=True)]

    def measured(self) -> np.ndarray:
        """[experiments] mean value."""
        each = [c @ task.value / n for c, task, n in zip(self.counts, self.tasks, self.units, strict=True)]
        return np.array(each).mean(0)

    def resamples(self, end: End) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """[experiments] mean, standard deviation and skewness of the suite's resamples for one end."""
        place = ENDS.index(end)
        harms = [task.harm[place] / (n + 1) for task, n in zip(self.tasks, self.units, strict=True)]
        worst = int(np.argmax(harms))
        mean, variance, third = np.zeros((3, len(self.counts[0])))
        for number, (task, counts) in enumerate(zip(self.tasks, self.counts, strict=True)):
            moments = _moments(task, counts, end, number == worst)
            mean, variance, third = mean + moments[0], variance + moments[1], third + moments[2]
        count = len(self.tasks)
        return mean / count, np.sqrt(variance) / count, third / variance**1.5


def _moments(task: Outcomes, counts: np.ndarray, end: End, worst: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[experiments] mean, variance and third central moment of a task's resamples (a Dirichlet mean's)."""
    value = np.append(task.value, task.lost if end == "lower" else task.gained)
    pseudo, unit = masses(int(counts[0].sum()), worst)
    weight = np.column_stack([counts * min(unit, task.mass), np.full(len(counts), pseudo)])
    total = weight.sum(1)
    mean = weight @ value / total
    around = value - mean[:, None]  # [experiments, k]
    second, third = ((weight * around**power).sum(1) / total for power in (2, 3))
    return mean, np.maximum(second, 1e-18) / (total + 1), 2 * third / ((total + 1) * (total + 2))


def gamma_below(at: np.ndarray, skew: np.ndarray) -> np.ndarray:
    """P(X < at) of a shifted gamma variable with mean 0, variance 1 and this skewness (Pearson's type III)."""
    from scipy.special import gammainc, gammaincc

    skew = _not_zero(skew)
    shape = 4 / skew**2
    inside = np.maximum(shape + np.sign(skew) * at * np.sqrt(shape), 0)
    return np.where(skew > 0, gammainc(shape, inside), gammaincc(shape, inside))


def gamma_quantile(level: float, skew: np.ndarray) -> np.ndarray:
    """Inverse of `gamma_below`."""
    from scipy.special import gammaincinv

    skew = _not_zero(skew)
    shape = 4 / skew**2
    return np.sign(skew) * (gammaincinv(shape, np.where(skew > 0, level, 1 - level)) - shape) / np.sqrt(shape)


def _not_zero(skew: np.ndarray) -> np.ndarray:
    """Skewness 0 is the normal distribution, a gamma of endless shape."""
    return np.where(np.abs(skew) < 1e-3, np.where(skew < 0, -1e-3, 1e-3), skew)
