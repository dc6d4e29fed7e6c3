"""Populations whose true retention is known, and draws from them: what the gate's error rates are simulated on.

A scenario stands for all items and both models; `draw` is one experiment, the paired answers that a gate would see. The
two models' answers to one item are as correlated as the scenario says, and so are the answers within a cluster.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from evals.paired import Pairs

Kind = Literal["right or wrong", "graded", "bits per byte"]


@dataclass(frozen=True)
class Scenario:
    """One population of items and models.

    Attributes:
        n: items of each task.
        original: expected score of the original (for bits per byte: nats a byte).
        chance: score of a model that knows nothing.
        retention: true share of the ability above chance that the candidate keeps.
        correlation: 0 = the models answer independently, 1 = as alike as their scores allow.
        tasks: tasks of equal size in the suite.
        cluster: items that depend on each other, on average, as questions about one text may; 1 = independent items.
        within: intraclass correlation of what happens to two items of a cluster, 1 = one and the same.
        unequal: clusters have 1, 2, 3 ... items (geometric); else all have the same number.
        declared: the gate is told which items form a cluster.
    """

    kind: Kind
    n: int
    original: float
    chance: float
    retention: float
    correlation: float
    tasks: int = 1
    floor: float = 0.95
    cluster: int = 1
    within: float = 0.0
    unequal: bool = False
    declared: bool = True

    def draw(self, rng: np.random.Generator) -> list[Pairs]:
        """One experiment: the paired answers to every task."""
        maker = {"right or wrong": self._answers, "graded": self._grades, "bits per byte": self._likelihoods}
        return [maker[self.kind](rng) for _ in range(self.tasks)]

    @property
    def candidate(self) -> float:
        """Expected score of the candidate."""
        return self.chance + self.retention * (self.original - self.chance)

    def _cell_shares(self) -> list[float]:
        p, q = self.original, self.candidate
        both = p * q + self.correlation * (min(p, q) - p * q)
        return [both, p - both, q - both, 1 - p - q + both]

    def _clusters(self, rng: np.random.Generator) -> np.ndarray:
        """[n] number of each item's cluster; n varies where the clusters are unequal."""
        count = self.n // self.cluster
        sizes = rng.geometric(1 / self.cluster, count) if self.unequal else np.full(count, self.cluster)
        return np.repeat(np.arange(count), sizes)

    def _within(self, draw: Callable[[int], np.ndarray], unit: np.ndarray | None, rng: np.random.Generator) -> Any:
        """[..., n] of `draw(n)`. An item is its cluster's with probability sqrt(within), else its own: two items of a
        cluster are one and the same with probability `within`, which is then their correlation."""
        if unit is None:
            return draw(self.n)
        alike, own = draw(int(unit[-1]) + 1)[..., unit], draw(len(unit))
        return np.where(rng.random(len(unit)) < np.sqrt(self.within), alike, own)

    def _answers(self, rng: np.random.Generator) -> Pairs:
        """0/1 scores. P(both right) lies between independence and its largest value, min(p, q)."""
        cells = np.array([(1, 1), (1, 0), (0, 1), (0, 0)], dtype=float)
        unit = self._clusters(rng) if self.cluster > 1 else None
        outcome = self._within(lambda size: rng.choice(4, size=size, p=self._cell_shares()), unit, rng)
        drawn = cells[outcome]  # [n, 2]
        return self._pairs(drawn[:, 0], drawn[:, 1], np.ones(len(drawn)), unit)

    def against(self, original: np.ndarray, rng: np.random.Generator) -> Pairs:
        """0/1 scores of a candidate, given what the original [n] got right: several candidates, one original."""
        both, lost, gained, neither = self._cell_shares()
        right = np.where(original == 1, both / (both + lost), gained / (gained + neither))  # [n]
        return self._pairs(original, (rng.random(len(original)) < right).astype(float), np.ones(len(original)))

    def _grades(self, rng: np.random.Generator) -> Pairs:
        """Scores in [0, 1], U-shaped, mean p and q; a share `correlation` of the items use one random number."""
        from scipy.stats import beta

        def draw(size: int) -> np.ndarray:
            own, other = rng.random((2, size))
            return np.stack([own, np.where(rng.random(size) < self.correlation, own, other)])

        unit = self._clusters(rng) if self.cluster > 1 else None
        first, second = self._within(draw, unit, rng)
        p, q = self.original, self.candidate
        return self._pairs(beta.ppf(first, p, 1 - p), beta.ppf(second, q, 1 - q), np.ones(len(first)), unit)

    def _likelihoods(self, rng: np.random.Generator) -> Pairs:
        """Log-likelihoods of documents of 50-5000 bytes; difficulty varies by document and is shared."""
        unit = self._clusters(rng) if self.cluster > 1 else None
        count = self.n if unit is None else len(unit)
        size = np.exp(rng.uniform(np.log(50), np.log(5000), count)).round()

        def draw(size: int) -> np.ndarray:
            shared = rng.lognormal(-0.045, 0.3, size)  # mean 1
            noise = rng.lognormal(-0.00125, 0.05, (2, size))  # mean 1
            alone = rng.lognormal(-0.045, 0.3, size)
            other = np.where(rng.random(size) < self.correlation, shared, alone)
            return np.stack([self.original * shared, self.original / self.retention * other]) * noise

        first, second = self._within(draw, unit, rng)
        return self._pairs(-size * first, -size * second, size, unit)

    def _pairs(
        self, original: np.ndarray, candidate: np.ndarray, weight: np.ndarray, unit: np.ndarray | None = None
    ) -> Pairs:
        bits = self.kind == "bits per byte"
        aggregation: Literal["bits_per_byte", "mean"] = "bits_per_byte" if bits else "mean"
        known = unit if self.declared else None
        return Pairs("simulated", original, candidate, weight, aggregation, not bits, self.chance, known)
