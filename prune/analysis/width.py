"""Residual width: how many directions of the stream are in use at every depth, and how much each layer adds anew.

Is d_model saturated? Answered from the spectrum of the stream's covariance over tokens. A covariance is d x d at every
depth, so this runs on a sample of tokens (see `samples`; at most `DOMAIN_TOKENS` of a domain, `ALL_TOKENS` and
`SAMPLE_BYTES` for all domains) through the Gram matrix of whichever is smaller, tokens or width. The scalar
`width/tokens` says how many tokens, n, there were. The participation ratio R is freed of the bias of a sample (it would
come out as R / (1 + R/n)). Leading eigenvalues are not: those of few tokens are high, so a stable rank r is low, by at
most about 2.5 r/n of itself. Eigenvectors are sought in float32: those that hold 99 % of the variance of n tokens have
eigenvalues of at least λ_max / (100 n), well above its rounding.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from prune.analysis.axes import LEADING_DIRECTIONS
from prune.analysis.clean_pass import CleanPass
from prune.analysis.samples import token_priority
from prune.analysis.statistics import INTERVAL, Records

DOMAIN_TOKENS = 512
ALL_TOKENS = 1024
SAMPLE_BYTES = 1 << 29  # of streams and contributions kept for all domains together
HELD = 0.99  # share of the variance that a stream's principal directions must hold to count as its span
RESAMPLES = 100
RESOLVED = 1e-6  # of the largest eigenvalue: what float32 leaves of an eigenvalue below is its rounding
SUBSPACE = 32  # resampled leading eigenvalues are sought among so many principal directions of the whole sample


def measure(clean: CleanPass, records: Records) -> None:
    """Keep a sample of the stream before every layer and after the last, and of what each layer adds."""
    assert clean.reader is not None  # the registry says that this measurement needs one
    streams = clean.walk.resid_pre
    bytes_each = 4 * streams[0].shape[-1] * (2 * len(streams) - 1)
    capacity = min(DOMAIN_TOKENS, min(ALL_TOKENS, SAMPLE_BYTES // bytes_each) // records.domains)
    sample = records.sample("width", max(2, capacity))
    priority = token_priority(clean.document, clean.position)  # [N]
    kept = np.flatnonzero(sample.admits(priority))  # [n]
    token = torch.from_numpy(kept).to(clean.row.device)  # [n]
    place = clean.mask.flatten().nonzero()[token, 0]  # [n] among the batch's B·T places
    values = {
        "stream": _stacked([stream.flatten(0, 1) for stream in streams], place),  # [n, L+1, d]
        "added": _stacked(clean.reader.added, token),  # [n, L, d]
    }
    sample.add(priority[kept], clean.document[kept] % records.groups, values, len(priority))


def _stacked(parts: Sequence[torch.Tensor], rows: torch.Tensor) -> np.ndarray:
    """[n, depths, d] float32: these rows [n] of the parts [N, d] of every depth."""
    found = torch.empty(len(rows), len(parts), parts[0].shape[-1])
    for depth, part in enumerate(parts):
        found[:, depth] = part[rows.to(part.device)]
    return found.numpy()


def derive(parts: Sequence[Records], draws: Sequence[np.ndarray] | None) -> dict[str, np.ndarray]:
    """Figures from the samples of one or more domains, each domain weighing by its tokens.

    Args:
        parts: domains.
        draws: for each domain how often each group is drawn, [R, G]; None for no intervals.

    Returns:
        `width/participation_ratio` (Σλ)² / Σλ² and `width/stable_rank` Σλ / λ_max of the covariance's eigenvalues,
        [L+1]; `width/top_share` [L+1, 3], the share of the variance in the 1, 4 and 16 leading directions;
        `width/new_share` [L], the share of ‖c[l]‖² outside the principal directions that hold 99 % of the variance
        before layer l; with `.lo` and `.hi`.
    """
    used = [(number, part.samples["width"]) for number, part in enumerate(parts) if "width" in part.samples]
    if not used or sum(len(sample.priority) for _, sample in used) < 2:
        return {}
    base = np.concatenate([np.full(len(s.priority), s.tokens_per_sample) for _, s in used])  # [n]
    weights = base[None, :]  # [1 + R, n], the plain figure first
    if draws is not None:
        counts = np.concatenate([draws[i][:RESAMPLES, s.group] for i, s in used], 1)  # [R, n]
        weights = np.concatenate([weights, base * counts])
    weights = torch.from_numpy(weights[weights.astype(bool).sum(1) >= 2])
    unseen = torch.from_numpy(1 - 1 / base)  # [n]
    rows: dict[str, list[np.ndarray]] = {}
    layers = used[0][1].stored["added"].shape[1]

    def at(depth: int, name: str) -> torch.Tensor:
        return torch.from_numpy(np.concatenate([s.stored[name][s.place, depth] for _, s in used]))  # [n, d]

    for depth in range(layers + 1):
        added = at(depth, "added") if depth < layers else None
        for key, values in depth_figures(at(depth, "stream"), added, weights, unseen).items():
            rows.setdefault(f"width/{key}", []).append(values)
    return _with_intervals({key: np.stack(values, 1) for key, values in rows.items()}) | {
        "width/tokens": np.asarray(weights.shape[1], dtype=np.float32)
    }


def depth_figures(
    stream: torch.Tensor, added: torch.Tensor | None, weights: torch.Tensor, unseen: torch.Tensor
) -> dict[str, np.ndarray]:
    """All figures of one depth for several weightings of the tokens.

    Args:
        stream: [n, d] float32.
        added: [n, d] float32, what the layer adds; None after the last.
        weights: [W, n] float64; the first is the plain figure, the others are resamples.
        unseen: [n] float64, of the tokens that each stands for the share that is not in the sample.

    Returns:
        key -> [W] or [W, 3] float64.
    """
    p = weights / weights.sum(1, keepdim=True)  # [W, n]
    centred = stream - (p[0] @ stream.double()).float()  # [n, d]
    gram = centred @ centred.T  # [n, n]
    root = p[0].sqrt().float()[:, None]  # [n, 1]
    scaled = centred * root  # [n, d]; the covariance is scaled.T @ scaled
    wide = len(scaled) <= scaled.shape[1]
    values, vectors = torch.linalg.eigh(root * gram * root.T if wide else scaled.T @ scaled)  # ascending
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    rank = max(1, int((values > values[0] * RESOLVED).sum()))
    directions = vectors[:, :rank]  # [d, rank]
    if wide:  # those of the covariance from those of the Gram matrix
        directions = (scaled.T @ directions) / values[:rank].sqrt().clamp(min=1e-30)  # [d, rank]
    values = values.double()
    found = _spectral(gram.double(), centred @ directions[:, :SUBSPACE], values, p, unseen)
    if added is not None:
        held = int((values.cumsum(0) < HELD * values.sum()).sum()) + 1
        inside = (added @ directions[:, : min(held, rank)]).double().square().sum(1)  # [n]
        size = added.double().square().sum(1)  # [n]
        found["new_share"] = 1 - (p @ inside) / (p @ size).clamp(min=1e-30)  # [W]
    return {key: value.numpy() for key, value in found.items()}


def _spectral(
    gram: torch.Tensor, coordinates: torch.Tensor, values: torch.Tensor, p: torch.Tensor, unseen: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Participation ratio, stable rank and top shares: exact for the first weighting, and for all others exact but
    for the leading eigenvalues, which are sought in the leading `SUBSPACE` directions.

    tr C = Σ p_i K_ii - b and tr C² = Σ p_i p_j K_ij² - 2 Σ p_i a_i² + b², with K the Gram matrix of the centred rows,
    a = K p and b = p·a. Of n tokens that stand for N, a token's product with itself is n/N times as frequent among all
    pairs as in the sample, hence the correction of tr C² (Horvitz and Thompson's estimator, to order 1/n; none when
    all tokens are there).

    Args:
        gram: K, [n, n] float64.
        coordinates: [n, m] float32 of the centred rows in the m leading directions.
        values: the covariance's eigenvalues, descending.
        p: [W, n] float64 weights of the tokens, each row summing to 1.
        unseen: [n] float64, 1 - n/N.
    """
    a = p @ gram  # [W, n]
    b = (p * a).sum(1)  # [W]
    trace = p @ gram.diagonal() - b  # [W]
    square = ((p @ gram.square()) * p).sum(1) - 2 * (p * a.square()).sum(1) + b.square()  # [W]
    own = gram.diagonal() - 2 * a + b[:, None]  # [W, n] squared norms of the rows centred by each weighting
    square = square - (p.square() * own.square()) @ unseen  # [W]
    coordinates = coordinates.double()  # [n, m]
    mean = p @ coordinates  # [W, m]
    size = coordinates.shape[1]
    products = (coordinates[:, :, None] * coordinates[:, None, :]).reshape(len(coordinates), size * size)  # [n, m²]
    moments = (p @ products).reshape(-1, size, size)  # [W, m, m]
    leading = torch.linalg.eigvalsh(moments - mean[:, :, None] * mean[:, None, :]).flip(1)  # [W, m] descending
    leading[0] = values[:size]
    trace = trace.clamp(min=1e-30)
    shares = [(leading[:, :count].sum(1) / trace).clamp(max=1) for count in LEADING_DIRECTIONS]
    return {
        "participation_ratio": trace.square() / square.clamp(min=1e-30),
        "stable_rank": trace / leading[:, 0].clamp(min=1e-30),
        "top_share": torch.stack(shares, 1),
    }


def _with_intervals(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """[1 + R, ...] -> the figure, and the interval where there were resamples."""
    figures = {}
    for key, values in rows.items():
        figures[key] = values[0].astype(np.float32)
        if len(values) > 1:
            low, high = np.percentile(values[1:], INTERVAL, axis=0)
            figures[f"{key}.lo"], figures[f"{key}.hi"] = low.astype(np.float32), high.astype(np.float32)
    return figures
