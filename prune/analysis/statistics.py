"""Sums per document, and what follows from them: means, bootstrap intervals, merged parts.

Every figure is a ratio of sums over documents (sum of a token statistic over number of tokens), so a document is the
unit of resampling. Memory is bounded: beyond `MAX_GROUPS` documents of a domain, documents share groups (document i
goes to group i mod MAX_GROUPS) and groups are resampled. Sums are float64; merging parts is exact addition. Figures
that are no sums (quantiles, spectra) come from samples of tokens, see `samples`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from prune.analysis.samples import TokenSample
from prune.errors import PruneError

MAX_GROUPS = 512
INTERVAL = (2.5, 97.5)  # percent


@dataclass
class Records:
    """Per-document sums of one domain.

    Attributes:
        documents: how many documents the domain has.
        sums: key -> [G, *shape] float64.
        weights: key -> [G] float64, what the sums are divided by (tokens, or documents).
        maxima: key -> [G, *shape] float64, for statistics that are a maximum over tokens.
        samples: name -> sampled tokens.
        domains: how many domains share the tokens that may be kept.
    """

    documents: int
    sums: dict[str, np.ndarray] = field(default_factory=dict)
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    maxima: dict[str, np.ndarray] = field(default_factory=dict)
    samples: dict[str, TokenSample] = field(default_factory=dict)
    domains: int = 1

    @property
    def groups(self) -> int:
        return min(self.documents, MAX_GROUPS)

    def add(self, key: str, index: Sequence[int], sums: np.ndarray, weights: np.ndarray) -> None:
        """Add B documents: sums [B, *shape], weights [B].

        Raises:
            PruneError: a sum is not finite.
        """
        if not np.isfinite(sums).all():
            raise PruneError(f"{key}: the model gave non-finite values; check its weights and --dtype")
        if key not in self.sums:
            self.sums[key] = np.zeros((self.groups, *sums.shape[1:]))
            self.weights[key] = np.zeros(self.groups)
        group = np.asarray(index) % self.groups
        np.add.at(self.sums[key], group, sums)
        np.add.at(self.weights[key], group, weights)

    def add_maximum(self, key: str, index: Sequence[int], values: np.ndarray) -> None:
        """Fold in the maxima [B, *shape] of B documents."""
        if not np.isfinite(values).all():
            raise PruneError(f"{key}: the model gave non-finite values; check its weights and --dtype")
        if key not in self.maxima:
            self.maxima[key] = np.full((self.groups, *values.shape[1:]), -np.inf)
        np.maximum.at(self.maxima[key], np.asarray(index) % self.groups, values)

    def sample(self, name: str, capacity: int) -> TokenSample:
        """The sample of this name, made with this capacity when first asked for."""
        return self.samples.setdefault(name, TokenSample(capacity))

    def merge(self, other: Records) -> None:
        """Add the sums of another part of the same documents (another process)."""
        for key, sums in other.sums.items():
            if key in self.sums:
                self.sums[key] = self.sums[key] + sums
                self.weights[key] = self.weights[key] + other.weights[key]
            else:
                self.sums[key], self.weights[key] = sums, other.weights[key]
        for key, values in other.maxima.items():
            self.maxima[key] = np.maximum(self.maxima[key], values) if key in self.maxima else values
        for key, sample in other.samples.items():
            self.sample(key, sample.capacity).merge(sample)


def resampling(parts: Sequence[Records], replicates: int, seed: int) -> list[np.ndarray]:
    """For each domain, how often each group is drawn: [R, G] counts; domains are resampled separately."""
    drawn = []
    for number, part in enumerate(parts):
        random = np.random.default_rng([seed, number])
        drawn.append(random.multinomial(part.groups, np.full(part.groups, 1 / part.groups), size=replicates))
    return drawn


def ratio(parts: Sequence[Records], key: str, counts: Sequence[np.ndarray] | None = None) -> np.ndarray:
    """Sum over sum, pooled over domains.

    Args:
        parts: domains; those without the key are passed over.
        key: the measurement.
        counts: draws per domain [R, G], or None for the plain figure.

    Returns:
        [*shape] float64, or [R, *shape].
    """
    top: np.ndarray | float = 0.0
    bottom: np.ndarray | float = 0.0
    for number, part in enumerate(parts):
        if key not in part.sums:
            continue
        sums, weights = part.sums[key], part.weights[key]
        if counts is None:
            top, bottom = top + sums.sum(0), bottom + weights.sum()
        else:
            top = top + np.tensordot(counts[number].astype(np.float64), sums, axes=1)
            bottom = bottom + counts[number] @ weights
    bottom = np.asarray(bottom, dtype=np.float64)
    return np.asarray(top) / bottom.reshape(bottom.shape + (1,) * (np.ndim(top) - bottom.ndim))


def summarise(parts: Sequence[Records], replicates: int, seed: int) -> dict[str, np.ndarray]:
    """Figures and their 95 % bootstrap intervals (`.lo`, `.hi`) over documents; float32.

    Intervals are absent where there are fewer than two documents, and for maxima.
    """
    figures: dict[str, np.ndarray] = {}
    enough = sum(part.groups for part in parts) >= 2 and replicates > 0
    counts = resampling(parts, replicates, seed) if enough else None
    for key in sorted({key for part in parts for key in part.sums}):
        figures[key] = ratio(parts, key).astype(np.float32)
        if counts is not None:
            low, high = np.percentile(ratio(parts, key, counts), INTERVAL, axis=0)
            figures[f"{key}.lo"], figures[f"{key}.hi"] = low.astype(np.float32), high.astype(np.float32)
    for key in sorted({key for part in parts for key in part.maxima}):
        values = [part.maxima[key].max(0) for part in parts if key in part.maxima]
        figures[key] = np.maximum.reduce(values).astype(np.float32)
    return figures
