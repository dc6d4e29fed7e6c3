"""Tables of effects of one layer on another: mean, 99th percentile and maximum over tokens, [L, L].

Row = the layer altered, column = the later layer affected; 0 on and below the diagonal, because nothing acts backwards.
The mean is a ratio of sums and the maximum a maximum; the percentile comes from a sample of tokens (`samples`), which
is all of them as long as a domain has no more than fit in `SAMPLE_BYTES`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from prune.analysis.clean_pass import CleanPass
from prune.analysis.interventions import Observer, relative_effect
from prune.analysis.samples import token_priority
from prune.analysis.statistics import INTERVAL, Records, square

SAMPLE_BYTES = 1 << 24  # of one table's effects, for all domains together
SAMPLE_TOKENS = 8192
QUANTILE = 0.99
RESAMPLES = 100
PAIRS_AT_ONCE = 64


def empty_table(clean: CleanPass) -> torch.Tensor:
    """[N, L, L] float32 zeros on the device of the final stream."""
    depth = clean.num_layers
    return torch.zeros(len(clean.row), depth, depth, device=clean.walk.resid_pre[-1].device)


def filling(clean: CleanPass, effects: torch.Tensor) -> Observer:
    """What `propagate` calls to fill a table [N, L, L] whose row s belongs to alteration s."""

    def observe(layer: int, active: Sequence[int], added: torch.Tensor) -> None:
        effects[:, list(active), layer] = relative_effect(clean, layer, added).T.to(effects.device)

    return observe


def record_table(
    clean: CleanPass,
    records: Records,
    name: str,
    effects: torch.Tensor,
    counted: torch.Tensor | None = None,
    draw: int = 0,
) -> None:
    """Add one batch to `name/mean`, `name/max` and the sample behind `name/p99`.

    Args:
        effects: [N, L, L].
        counted: [N] bool, the tokens that count; all if None.
        draw: number of this table among several of the same tokens.
    """
    rows = clean.row.to(effects.device)
    token = torch.arange(len(rows), device=rows.device) if counted is None else counted.to(rows.device).nonzero()[:, 0]
    if not len(token):
        return
    effects, rows = effects[token], rows[token]  # [n, L, L], [n]
    counts = torch.bincount(rows, minlength=len(clean.index))  # [B]
    used = [row for row, count in enumerate(counts.tolist()) if count]
    index = [clean.index[row] for row in used]
    sums, tokens = clean.by_document(effects, rows)[used], counts.cpu().numpy()[used].astype(float)
    records.add(f"{name}/mean", index, sums, tokens, triangle=True)
    records.add_maximum(f"{name}/max", effects.amax(0, keepdim=True).cpu().numpy())
    _sample(clean, records, name, effects, token.cpu().numpy(), draw)


def _sample(clean: CleanPass, records: Records, name: str, effects: torch.Tensor, token: np.ndarray, draw: int) -> None:
    upper = torch.triu_indices(clean.num_layers, clean.num_layers, 1)  # [2, P]
    capacity = min(SAMPLE_TOKENS, SAMPLE_BYTES // (4 * max(1, upper.shape[1]))) // records.domains
    sample = records.sample(name, max(2, capacity))
    priority = token_priority(clean.document[token], clean.position[token], draw)  # [n]
    kept = np.flatnonzero(sample.admits(priority))
    values = effects[torch.from_numpy(kept).to(effects.device)][:, upper[0], upper[1]].cpu().numpy()  # [k, P]
    sample.add(priority[kept], clean.document[token][kept] % records.groups, {"effect": values}, len(priority))


def percentiles(parts: Sequence[Records], draws: Sequence[np.ndarray] | None, family: str) -> dict[str, np.ndarray]:
    """`FAMILY/PART/p99` [L, L], with intervals, of every table of a family that was sampled.

    Args:
        parts: domains.
        draws: for each domain how often each group is drawn, [R, G]; None for no intervals.
        family: `skip_effect`, `local_effect` or `future_effect`.
    """
    figures: dict[str, np.ndarray] = {}
    for name in sorted({name for part in parts for name in part.samples if name.startswith(f"{family}/")}):
        used = [(number, part.samples[name]) for number, part in enumerate(parts) if name in part.samples]
        base = np.concatenate([np.full(len(s.priority), s.tokens_per_sample) for _, s in used])  # [n]
        effects = np.concatenate([s.values("effect") for _, s in used])  # [n, P]
        depth = int((1 + np.sqrt(1 + 8 * effects.shape[1])) / 2)
        figures[f"{name}/p99"] = square(weighted_quantile(effects, base[None])[0], depth).astype(np.float32)
        if draws is not None:
            weights = base * np.concatenate([draws[i][:RESAMPLES, s.group] for i, s in used], 1)  # [R, n]
            ends = np.percentile(weighted_quantile(effects, weights[weights.any(1)]), INTERVAL, axis=0)  # [2, P]
            figures[f"{name}/p99.lo"], figures[f"{name}/p99.hi"] = square(ends, depth).astype(np.float32)
    return figures


def weighted_quantile(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The 99th percentile with linear interpolation, as if token i stood there `weights[i]` times.

    Args:
        values: [n, P].
        weights: [W, n], none of the rows zero.

    Returns:
        [W, P] float64.
    """
    total = weights.sum(1)  # [W]
    place = (1 - QUANTILE) * (total - 1).clip(min=0)  # [W] counted from the top
    whole = np.floor(place)
    found = np.empty((len(weights), values.shape[1]))
    for begin in range(0, values.shape[1], PAIRS_AT_ONCE):
        columns = values[:, begin : begin + PAIRS_AT_ONCE]  # [n, c]
        order = np.argsort(-columns, axis=0, kind="stable")[: _deepest(values, weights)]  # [m, c]
        ranked = np.take_along_axis(columns, order, 0).astype(np.float64)  # [m, c]
        passed = weights[:, order].cumsum(1)  # [W, m, c] tokens at or above
        ends = []
        for offset in (0, 1):
            rank = (passed <= (whole + offset)[:, None, None]).sum(1).clip(max=len(ranked) - 1)  # [W, c]
            ends.append(np.take_along_axis(ranked, rank, 0))
        share = (place - whole)[:, None]  # [W, 1]
        found[:, begin : begin + PAIRS_AT_ONCE] = ends[0] * (1 - share) + ends[1] * share
    return found


def _deepest(values: np.ndarray, weights: np.ndarray) -> int:
    """How many of the largest values can matter; five-fold, as a resample may leave out most of the top documents."""
    n = len(values)
    return n if len(weights) == 1 or n <= 400 else min(n, int(5 * (1 - QUANTILE) * n) + 20)
