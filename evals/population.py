"""Populations whose true retention is known, and draws from them: what the gate's error rates are simulated on.

A scenario stands for all items and both models; `draw` is one experiment, the paired answers that a gate would see. The
two models' answers to one item are as correlated as the scenario says, and so are the answers within a cluster.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from evals.paired import Pairs

Kind = Literal["right or wrong", "graded", "bits per byte"]

GIANT = 20
"""Times the items of an ordinary cluster that a giant one has."""
SHORTEST, LONGEST = 50, 5000
"""Bytes of a document."""


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
        giant: share of clusters with `GIANT` times the items; where it is not 0, they alone hold what is lost.
        heavy: share of texts (bits per byte) on which the candidate loses `times` as much as the original; the others
            bear the rest of the loss, or gain.
        longest: the heavy texts are the longest ones, else any.
        tail: index of the Pareto distribution of texts' lengths, above 1; 0: 50-5000 bytes, log-uniform.
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
    giant: float = 0.0
    heavy: float = 0.0
    times: float = 1.0
    longest: bool = False
    tail: float = 0.0

    def draw(self, rng: np.random.Generator) -> list[Pairs]:
        """One experiment: the paired answers to every task."""
        maker = {"right or wrong": self._answers, "graded": self._grades, "bits per byte": self._likelihoods}
        return [maker[self.kind](rng) for _ in range(self.tasks)]

    @property
    def candidate(self) -> float:
        """Expected score of the candidate."""
        return self.chance + self.retention * (self.original - self.chance)

    def _cell_shares(self, candidate: float | None = None) -> list[float]:
        """Shares of both right, lost, gained, both wrong."""
        p, q = self.original, self.candidate if candidate is None else candidate
        both = p * q + self.correlation * (min(p, q) - p * q)
        shares = [both, p - both, q - both, 1 - p - q + both]
        assert min(shares) > -1e-9, "a share of answers below 0"
        return [max(0.0, share) for share in shares]  # rounding leaves -1e-17 where both models are alike

    def _clusters(self, rng: np.random.Generator) -> np.ndarray:
        """[n] number of each item's cluster; n varies where the clusters are unequal."""
        count = self.n // self.cluster
        sizes = rng.geometric(1 / self.cluster, count) if self.unequal else np.full(count, self.cluster)
        if self.giant:
            sizes = np.where(rng.random(count) < self.giant, GIANT * sizes, sizes)
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
        if self.giant:
            outcome = self._lost_in_giants(unit, rng)
        drawn = cells[outcome]  # [n, 2]
        return self._pairs(drawn[:, 0], drawn[:, 1], np.ones(len(drawn)), unit)

    def _lost_in_giants(self, unit: np.ndarray | None, rng: np.random.Generator) -> np.ndarray:
        """[n] outcomes: clusters of ordinary size lose nothing that they do not gain."""
        if unit is None or self.unequal:
            raise ValueError("giant clusters stand among equal ones of two items or more")
        held = GIANT * self.giant / (GIANT * self.giant + 1 - self.giant)  # share of the items in giants
        there = self.original - (self.original - self.candidate) / held
        large = np.bincount(unit)[unit] > self.cluster

        def outcomes(candidate: float) -> np.ndarray:
            return self._within(lambda size: rng.choice(4, size=size, p=self._cell_shares(candidate)), unit, rng)

        lost, spared = outcomes(there), outcomes(self.original)
        return np.where(large, lost, spared)

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
        """Log-likelihoods of documents; difficulty varies by document and is shared."""
        unit = self._clusters(rng) if self.cluster > 1 else None
        count = self.n if unit is None else len(unit)
        length = self._lengths(rng, count)
        longest = length >= self._length_above(self.heavy)
        struck = longest if self.longest else rng.random(count) < self.heavy
        share = self.heavy_bytes
        ordinary = (1 / self.retention - share * self.times) / (1 - share) if share else 1 / self.retention
        assert ordinary > 0, "heavy texts hold more than the loss"
        worse = np.where(struck, self.times, ordinary)

        def draw(size: int) -> np.ndarray:
            shared = rng.lognormal(-0.045, 0.3, size)  # mean 1
            noise = rng.lognormal(-0.00125, 0.05, (2, size))  # mean 1
            alone = rng.lognormal(-0.045, 0.3, size)
            other = np.where(rng.random(size) < self.correlation, shared, alone)
            return np.stack([self.original * shared, self.original * other]) * noise

        first, second = self._within(draw, unit, rng) if unit is not None else draw(count)
        return self._pairs(-length * first, -length * second * worse, length, unit)

    @property
    def heavy_bytes(self) -> float:
        """Share of all bytes that the heavy texts hold."""
        return self._bytes_above(self.heavy) if self.longest else self.heavy

    def _lengths(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """[count] bytes of documents."""
        if self.tail:
            return (SHORTEST * rng.random(count) ** (-1 / self.tail)).round()
        return np.exp(rng.uniform(np.log(SHORTEST), np.log(LONGEST), count)).round()

    def _length_above(self, share: float) -> float:
        """Bytes that this share of the documents reaches."""
        if not share:
            return np.inf
        return float(SHORTEST * share ** (-1 / self.tail) if self.tail else LONGEST * (SHORTEST / LONGEST) ** share)

    def _bytes_above(self, share: float) -> float:
        """Share of all bytes in this share of the documents, the longest."""
        if self.tail:
            return float(share ** (1 - 1 / self.tail))
        return float((LONGEST - self._length_above(share)) / (LONGEST - SHORTEST)) if share else 0.0

    def _pairs(
        self, original: np.ndarray, candidate: np.ndarray, weight: np.ndarray, unit: np.ndarray | None = None
    ) -> Pairs:
        bits = self.kind == "bits per byte"
        aggregation: Literal["bits_per_byte", "mean"] = "bits_per_byte" if bits else "mean"
        known = unit if self.declared else None
        return Pairs("simulated", original, candidate, weight, aggregation, not bits, self.chance, known)


@dataclass(frozen=True)
class Mixed:
    """A suite whose tasks differ: in size, ability, and in what the candidate loses there.

    Attributes:
        members: one scenario a task (their own floors do not count).
    """

    members: tuple[Scenario, ...]
    floor: float = 0.95

    def draw(self, rng: np.random.Generator) -> list[Pairs]:
        """One experiment: the paired answers to every task."""
        return [pairs for member in self.members for pairs in member.draw(rng)]

    @property
    def retention(self) -> float:
        """True share that the candidate keeps over the suite; tasks count alike."""
        if self.members[0].kind == "bits per byte":
            return len(self.members) / sum(1 / member.retention for member in self.members)  # originals alike
        kept = sum(member.candidate - member.chance for member in self.members)
        return kept / sum(member.original - member.chance for member in self.members)


def losing(sizes: Sequence[int], losses: Sequence[float], *, floor: float = 0.95, **common: Any) -> Mixed:
    """A suite exactly at its floor, the loss spread over its tasks in proportion to `losses`.

    Args:
        sizes: items of each task.
        losses: [tasks] shares of what the suite loses; negative where the candidate gains.
        common: fields of every task's `Scenario`, `retention` excepted.

    Raises:
        ValueError: a task would have to lose more than all of its answers, or gain more than there are.
    """
    chance, original = common["chance"], common["original"]
    total, shares = (1 - floor) * (original - chance) * len(sizes), math.fsum(losses)
    if not shares:
        raise ValueError("the losses cancel out; the suite could not lose anything")
    members = []
    for size, share in zip(sizes, losses, strict=True):
        lost = round(total * share / shares, 12)
        if not 0 <= original - lost <= 1:
            raise ValueError(f"a task of {size} items cannot lose {lost:.3f} of {original:.3f}")
        members.append(Scenario(n=size, retention=1 - lost / (original - chance), floor=floor, **common))
    return Mixed(tuple(members), floor)
