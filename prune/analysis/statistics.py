"""Sums per document, and what follows from them: means, bootstrap intervals, merged parts.

Every figure is a ratio of sums over documents (sum of a token statistic over number of tokens), so a document is the
unit of resampling. Memory is bounded: beyond `MAX_GROUPS` documents of a domain, documents share groups (document i
goes to group i mod MAX_GROUPS) and groups are resampled; of tables that are zero on and below the diagonal only the
entries above it are kept, and of maxima, which have no interval, one for all documents. Sums are float64; merging
parts is exact addition. Figures that are no sums (quantiles, spectra) come from samples of tokens, see `samples`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from prune.analysis.samples import TokenSample
from prune.errors import PruneError

MAX_GROUPS = 512
INTERVAL = (2.5, 97.5)  # percent
RESAMPLED_BYTES = 1 << 22  # of resampled figures at a time


@dataclass
class Records:
    """Per-document sums of one domain.

    Attributes:
        documents: how many documents the domain has.
        sums: key -> [G, *shape] float64; of a triangle [G, P], its P entries above the diagonal.
        weights: key -> [G] float64, what the sums are divided by (tokens, or documents).
        triangles: key -> M, for figures [M, M] that are zero on and below the diagonal.
        maxima: key -> [*shape] float64, for statistics that are a maximum over tokens.
        samples: name -> sampled tokens.
        domains: how many domains share the tokens that may be kept.
    """

    documents: int
    sums: dict[str, np.ndarray] = field(default_factory=dict)
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    triangles: dict[str, int] = field(default_factory=dict)
    maxima: dict[str, np.ndarray] = field(default_factory=dict)
    samples: dict[str, TokenSample] = field(default_factory=dict)
    domains: int = 1

    @property
    def groups(self) -> int:
        return min(self.documents, MAX_GROUPS)

    def add(
        self, key: str, index: Sequence[int], sums: np.ndarray, weights: np.ndarray, *, triangle: bool = False
    ) -> None:
        """Add B documents: sums [B, *shape], weights [B].

        Args:
            triangle: the shape is [M, M], with zeros on and below the diagonal.

        Raises:
            PruneError: a sum is not finite.
        """
        _check_finite(key, sums)
        if triangle:
            self.triangles[key] = sums.shape[-1]
            sums = _above_diagonal(sums)  # [B, P]
        if key not in self.sums:
            self.sums[key] = np.zeros((self.groups, *sums.shape[1:]))
            self.weights[key] = np.zeros(self.groups)
        group = np.asarray(index) % self.groups
        np.add.at(self.sums[key], group, sums)
        np.add.at(self.weights[key], group, weights)

    def add_maximum(self, key: str, values: np.ndarray) -> None:
        """Fold in the maxima [B, *shape] of B documents."""
        _check_finite(key, values)
        found = values.max(0).astype(np.float64)
        self.maxima[key] = np.maximum(self.maxima[key], found) if key in self.maxima else found

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
        self.triangles |= other.triangles
        for key, values in other.maxima.items():
            self.maxima[key] = np.maximum(self.maxima[key], values) if key in self.maxima else values
        for key, sample in other.samples.items():
            self.sample(key, sample.capacity).merge(sample)


def _check_finite(key: str, values: np.ndarray) -> None:
    if not np.isfinite(values).all():
        raise PruneError(f"{key}: the model gave non-finite values; check its weights and dtype")


def _above_diagonal(tables: np.ndarray) -> np.ndarray:
    """[..., M, M] -> [..., P], row by row."""
    upper = np.triu_indices(tables.shape[-1], 1)
    return tables[..., upper[0], upper[1]]


def square(entries: np.ndarray, size: int) -> np.ndarray:
    """[..., P] -> [..., M, M], zeros on and below the diagonal."""
    table = np.zeros((*entries.shape[:-1], size, size), dtype=entries.dtype)
    upper = np.triu_indices(size, 1)
    table[..., upper[0], upper[1]] = entries
    return table


def resampling(parts: Sequence[Records], replicates: int, seed: int) -> list[np.ndarray] | None:
    """For each domain, how often each group is drawn: [R, G] float64; domains are resampled separately.

    None where nothing is to be drawn, or a domain's one document would be drawn the same every time.
    """
    if replicates < 1 or any(part.groups < 2 for part in parts):
        return None
    drawn = []
    for number, part in enumerate(parts):
        random = np.random.default_rng([seed, number])
        counts = random.multinomial(part.groups, np.full(part.groups, 1 / part.groups), size=replicates)
        drawn.append(counts.astype(np.float64))
    return drawn


def telling(parts: Sequence[Records], key: str, draws: Sequence[np.ndarray] | None) -> list[np.ndarray] | None:
    """The draws in which a figure has a value; None where they cannot tell how uncertain it is.

    They cannot where a single document of a domain has the figure (the only one with a prompt, say).
    """
    held = [(part.weights[key], number) for number, part in enumerate(parts) if key in part.weights]
    if draws is None or any(np.count_nonzero(weights) < 2 for weights, _ in held):
        return None
    total = np.sum([draws[number] @ weights for weights, number in held], axis=0)  # [R]
    return [drawn[total > 0] for drawn in draws]


def ratio(parts: Sequence[Records], key: str, counts: Sequence[np.ndarray] | None = None) -> np.ndarray:
    """Sum over sum, pooled over domains.

    Args:
        parts: domains; those without the key are passed over.
        key: the measurement.
        counts: draws per domain [R, G], or None for the plain figure.

    Returns:
        [*shape] float64, or [R, *shape].
    """
    return _whole(parts, key, _ratio(parts, key, counts, slice(None)))


def _ratio(parts: Sequence[Records], key: str, counts: Sequence[np.ndarray] | None, columns: slice) -> np.ndarray:
    """These columns of a measurement whose shape is laid flat: [C] float64, or [R, C]."""
    top: np.ndarray | float = 0.0
    bottom: np.ndarray | float = 0.0
    for number, part in enumerate(parts):
        if key not in part.sums:
            continue
        sums, weights = part.sums[key].reshape(part.groups, -1)[:, columns], part.weights[key]
        top = top + (sums.sum(0) if counts is None else counts[number] @ sums)
        bottom = bottom + (weights.sum() if counts is None else (counts[number] @ weights)[:, None])
    return np.asarray(top) / bottom


def _whole(parts: Sequence[Records], key: str, flat: np.ndarray) -> np.ndarray:
    """[..., C] -> [..., *shape]."""
    part = next(part for part in parts if key in part.sums)
    if key in part.triangles:
        return square(flat, part.triangles[key])
    return flat.reshape(flat.shape[:-1] + part.sums[key].shape[1:])


def summarise(parts: Sequence[Records], replicates: int, seed: int) -> dict[str, np.ndarray]:
    """Figures and their 95 % bootstrap intervals (`.lo`, `.hi`) over documents; float32.

    Intervals are absent where a domain has fewer than two documents with the figure, and for maxima.
    """
    figures: dict[str, np.ndarray] = {}
    draws = resampling(parts, replicates, seed)
    for key in sorted({key for part in parts for key in part.sums}):
        figures[key] = ratio(parts, key).astype(np.float32)
        if (counts := telling(parts, key, draws)) is not None:
            low, high = _interval(parts, key, counts)
            figures[f"{key}.lo"], figures[f"{key}.hi"] = low, high
    for key in sorted({key for part in parts for key in part.maxima}):
        values = [part.maxima[key] for part in parts if key in part.maxima]
        figures[key] = np.maximum.reduce(values).astype(np.float32)
    return figures


def _interval(parts: Sequence[Records], key: str, counts: Sequence[np.ndarray]) -> np.ndarray:
    """[2, *shape] float32, the ends; a block of columns at a time, as R tables [L, L] are large."""
    columns = next(part.sums[key] for part in parts if key in part.sums)[0].size
    size = max(1, RESAMPLED_BYTES // (8 * len(counts[0])))
    ends = [
        np.percentile(_ratio(parts, key, counts, slice(begin, begin + size)), INTERVAL, axis=0)
        for begin in range(0, columns, size)
    ]
    return _whole(parts, key, np.concatenate(ends, 1).astype(np.float32))
