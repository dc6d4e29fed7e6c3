"""What a subset of the units costs, document by document, and what scoring took."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

Quantity = Literal["dnll", "kl", "missed"]
Keep = tuple[int, ...]


@dataclass(frozen=True)
class Score:
    """What one subset of the layers costs.

    Attributes:
        keep: the units that stay, sorted.
        sums: for each domain the cost (ΔNLL or KL) summed over each document's counted tokens, in nats [documents];
            infinite where the subset's model gives a non-finite value. Of `missed`: 1 for a missed document, else 0.
        tokens: for each domain the counted tokens of each document [documents]; 1 each for `missed`.
        weights: of the domains; they need not sum to one.
    """

    keep: Keep
    sums: Mapping[str, np.ndarray]
    tokens: Mapping[str, np.ndarray]
    weights: Mapping[str, float]

    @property
    def documents(self) -> int:
        """How many were read."""
        return sum(len(tokens) for tokens in self.tokens.values())

    @property
    def by_domain(self) -> dict[str, float]:
        """Cost per counted token, in nats, of each domain; of `missed` the share of its documents."""
        return {name: float(self.sums[name].sum() / self.tokens[name].sum()) for name in self.sums}

    @property
    def total(self) -> float:
        """Weighted mean over domains of `by_domain`."""
        return self.weighted(self.weights)

    def weighted(self, weights: Mapping[str, float]) -> float:
        """`total` under other weights."""
        return _mix(self.by_domain, weights)

    def interval(
        self, domain: str | None = None, *, level: float = 0.95, resamples: int = 1000, seed: int = 0
    ) -> tuple[float, float]:
        """Percentile bootstrap interval over documents of one domain's mean, or of the weighted total.

        Args:
            domain: a name; None for the weighted total.
            level: coverage.
            resamples: bootstrap samples.
            seed: of the resampling.
        """
        random = np.random.default_rng(seed)
        draws = {name: self._resampled(name, random, resamples) for name in self.sums}
        sample = draws[domain] if domain is not None else _mix(draws, self.weights)  # [resamples]
        if not np.isfinite(sample).all():
            return math.inf, math.inf
        low, high = np.quantile(sample, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)

    def _resampled(self, name: str, random: np.random.Generator, resamples: int) -> np.ndarray:
        size = len(self.tokens[name])
        counts = random.multinomial(size, np.full(size, 1 / size), size=resamples)  # [resamples, documents]
        if not np.isfinite(self.sums[name]).all():
            return np.full(resamples, math.inf)
        return (counts @ self.sums[name]) / (counts @ self.tokens[name])

    def describe(self) -> dict[str, Any]:
        """JSON-serialisable: totals and intervals; a non-finite figure is null."""
        domains = {name: _estimate(value, self.interval(name)) for name, value in self.by_domain.items()}
        return {"total": _estimate(self.total, self.interval()), "by_domain": domains}


@dataclass
class Work:
    """What scoring took, in units of one layer over one document.

    Attributes:
        layers: layer evaluations made, attention or MLP alone as its share of the layer's parameters; a score from the
            cache takes none.
        asked: the distinct scores asked for.
        evaluated: those made on the model, in whole or in part; the others came from the cache.
        bytes_read: of weights, where they are read again for every call.
    """

    layers: float = 0
    asked: set[tuple[Quantity, Keep]] = field(default_factory=set)
    evaluated: set[tuple[Quantity, Keep]] = field(default_factory=set)
    bytes_read: int = 0

    def describe(self) -> dict[str, Any]:
        """For a plan: counts."""
        return {
            "layer_evaluations": round(self.layers),
            "subsets": len(self.asked),
            "subsets_from_cache": len(self.asked - self.evaluated),
            **({"bytes_read": self.bytes_read} if self.bytes_read else {}),
        }


def _mix(values: Mapping[str, Any], weights: Mapping[str, float]) -> Any:
    used = {name: weight for name, weight in weights.items() if weight > 0}
    return sum(weight * values[name] for name, weight in used.items()) / sum(used.values())


def _estimate(value: float, interval: tuple[float, float]) -> dict[str, float | None]:
    figures = zip(("value", "lo", "hi"), (value, *interval), strict=True)
    return {name: figure if math.isfinite(figure) else None for name, figure in figures}
