"""Costs compared in pairs on the same documents: a mean difference over all of them from some, and its error.

What makes a document hard cancels in a difference, so few tell two removals apart. Assumption: documents are a
random sample, and a share of them shows their spread. Answers of one token whose likelihood seldom moves, but then
much, violate it: errors are then too small.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95  # of a round: Bonferroni over its candidates
PARTS = (12, 8, 5.5, 4, 3, 2, 1.5, 1.2, 1)  # a domain's shares are one in so many documents
SMALLEST_SHARE = 2  # documents of a domain: one has no spread
Look = tuple[int, ...]  # for each domain the level of its shares
Costs = Sequence[np.ndarray]  # for each domain [documents of a look]


@dataclass(frozen=True)
class Ground:
    """The documents that candidates race over.

    Attributes:
        tokens: for each domain the counted tokens of each document, in the order in which looks take them.
        weights: of the domains, summing to one.
        shares: for each domain how many documents its levels hold, ascending; the last is all of them.
    """

    tokens: Sequence[np.ndarray]
    weights: Sequence[float]
    shares: Sequence[Sequence[int]]

    @property
    def first(self) -> Look:
        """The smallest share of every domain."""
        return (0,) * len(self.tokens)

    @property
    def size(self) -> int:
        """All documents."""
        return sum(map(len, self.tokens))

    def documents(self, look: Look) -> list[int]:
        """Of each domain."""
        return [shares[level] for shares, level in zip(self.shares, look, strict=True)]

    def deeper(self, look: Look, domain: int) -> Look:
        """With the next share of one domain."""
        return (*look[:domain], look[domain] + 1, *look[domain + 1 :])


def nested_shares(size: int) -> list[int]:
    """Documents in a twelfth, an eighth ... and all of a domain, two at least; equal shares stand once."""
    return sorted({min(size, max(SMALLEST_SHARE, math.ceil(size / parts))) for parts in PARTS})


@dataclass(frozen=True)
class Difference:
    """A mean difference over all documents, from some of them.

    Attributes:
        value: in nats per token, domains mixed.
        variances: of its error, what each domain adds [domains].
    """

    value: float
    variances: np.ndarray

    @property
    def error(self) -> float:
        """Standard error."""
        return math.sqrt(self.variances.sum())

    @property
    def loss(self) -> float:
        """Expected loss of taking it for positive, if it is normal around `value`: E[max(0, -difference)]."""
        from scipy.stats import norm

        if not self.error or not math.isfinite(self.value):
            return max(0.0, -self.value)
        away = self.value / self.error
        return float(self.error * norm.pdf(away) - self.value * norm.sf(away))


def difference(ground: Ground, one: Costs, other: Costs, before: tuple[Costs, Costs] | None = None) -> Difference:
    """`one` minus `other` on the documents that both have.

    A ratio estimator of the cost per token with the finite-population correction; `before`, the same two at another
    time on more documents, is its control variate (Cochran 1977, double sampling for regression).

    Args:
        one, other: for each domain sums [documents], the first ones of the ground's; an infinite value makes the
            difference infinite.
        before: the same, earlier.
    """
    value, variances = 0.0, np.zeros(len(ground.tokens))
    for at, (weight, tokens, first, second) in enumerate(zip(ground.weights, ground.tokens, one, other, strict=True)):
        if not weight:
            continue
        common = min(len(first), len(second))
        if not np.isfinite(first[:common]).all():
            return Difference(math.inf, np.zeros(len(variances)))
        if not np.isfinite(second[:common]).all():
            return Difference(-math.inf, np.zeros(len(variances)))
        old = None if before is None else _longer(before[0][at], before[1][at], common)
        mean, variance = _mean(tokens, first[:common] - second[:common], old)
        value, variances[at] = value + weight * mean, weight**2 * variance
    return Difference(float(value), variances)


def _longer(first: np.ndarray, second: np.ndarray, number: int) -> np.ndarray | None:
    """The difference of two costs where both have more than `number` documents; None where they do not help."""
    common = min(len(first), len(second))
    old = first[:common] - second[:common]
    return old if common > number and number > 2 and np.isfinite(old).all() else None


def _mean(tokens: np.ndarray, sums: np.ndarray, old: np.ndarray | None) -> tuple[float, float]:
    """Mean of `sums` [n] per token, and the variance of its error; with the help of `old` [more than n]."""
    size, number = len(tokens), len(sums)
    mean, residual = _ratio(tokens, sums)
    spread = _variance(tokens, residual)
    if old is None:
        return mean, (1 - number / size) * spread
    far, _ = _ratio(tokens, old)
    near, of_old = _ratio(tokens, old[:number])
    square = float(of_old @ of_old)
    slope = min(1.0, max(0.0, float(residual @ of_old) / square)) if square else 0.0
    left = _variance(tokens, residual - slope * of_old)
    seen = len(old)
    return mean + slope * (far - near), (1 - number / seen) * left + (1 - seen / size) * spread * number / seen


def _ratio(tokens: np.ndarray, sums: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean per token of the first documents, and what each is off it [n]."""
    tokens = tokens[: len(sums)]
    mean = float(sums.sum() / tokens.sum())
    return mean, sums - mean * tokens


def _variance(tokens: np.ndarray, residual: np.ndarray) -> float:
    """Of a mean per token, from residuals [n], were the documents without end."""
    number = len(residual)
    if number < 2:
        return 0.0
    return float(number / (number - 1) * (residual @ residual) / tokens[:number].sum() ** 2)


def quantile(candidates: int, documents: int) -> float:
    """One-sided t quantile for comparing one candidate with all the others."""
    from scipy.stats import t

    return float(t.ppf(1 - (1 - CONFIDENCE) / max(1, candidates - 1), max(1, documents - 1)))


@dataclass(frozen=True)
class Documents:
    """Costs by document, for searches that decide on some of them.

    Attributes:
        ground: tokens, weights and shares.
        scores: (subsets that stay, look) -> for each, and for each domain, the costs [documents of the look].
    """

    ground: Ground
    scores: Callable[[Sequence[tuple[int, ...]], Look], list[Costs]]
