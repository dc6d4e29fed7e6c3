"""Does the model change its way of working somewhere along its depth, and where?

Four indicators, each with an interval over documents: the layer from which contributions keep the opposite sign of
cosine for good, and the change points of relative contribution, of the effect on the loss, and of what a layer does to
the later layers at later tokens (future effect). 'None found' is an answer (None): what random orders of the layers
show as often is no change, nor is a slow trend (in a random model too, layers write less and less of a growing stream).
Indicators that disagree are reported side by side and never averaged. Change points are located with `ruptures`, after
outlying layers (usually the first) have been pulled in, as one of them would otherwise decide.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from prune.analysis.statistics import INTERVAL, Records, ratio, resampling, telling
from prune.wording import Message, message
from prune.wording.text import english

INDICATORS = {
    "cosine_sign_flip": "contribution_cosine/layer",
    "contribution_change_point": "relative_contribution/layer",
    "dnll_change_point": "output_effect/dnll",
    "future_effect_change_point": "future_effect/layer/mean",
}
SMALLEST_DEPTH = 8  # of fewer layers, even the clearest change is too likely in a random order
SMALLEST_SEGMENT = 2  # layers
SIGNIFICANCE = 0.05
PERMUTATIONS = 999
OUTSTANDING = 0.002  # stricter: trends that are no cubics must not pass for steps
ROUNDING = 1e-9
TINY = 1e-300
FENCE = 1.5  # quartile ranges beyond the quartiles (Tukey 1977)
RESAMPLES = 200  # of the bootstrap's; each is a search of its own


def phase_changes(parts: Sequence[Records], replicates: int, seed: int) -> dict[str, Any]:
    """Indicator -> `layer` (the first of the new phase), `lo`, `hi`, `found_share`; None where none was found.

    `found_share` is the share of resamples in which the indicator finds a change at all; `agreement` says in a
    sentence whether the intervals meet. Indicators whose measurement is missing are absent.
    """
    found: dict[str, Any] = {}
    draws = resampling(parts, min(replicates, RESAMPLES), seed)
    for name, key in INDICATORS.items():
        if any(key in part.sums for part in parts):
            usable = telling(parts, key, draws)
            curves = None if usable is None else _curve(ratio(parts, key, usable), key)  # [R, L]
            search = sign_flip if name == "cosine_sign_flip" else change_point
            found[name] = _located(_curve(ratio(parts, key), key), curves, search)
    if len(found) > 1:
        found["agreement"] = english(agreement(found))
    return found


def _curve(values: np.ndarray, key: str) -> np.ndarray:
    """One figure a layer: [..., L] as it is; [..., L, L] as the mean over the layers after it, the last left out.

    Nothing comes after the last layer, so its effect on later layers is 0 by definition and no sign of a change.
    """
    if not key.startswith("future_effect"):
        return values
    depth = values.shape[-1]
    later = np.triu(np.ones((depth, depth)), 1)  # [L, L] column after row
    return ((values * later).sum(-1) / np.maximum(later.sum(-1), 1))[..., :-1]


def sign_flip(curve: np.ndarray) -> int | None:
    """The first layer from which the sign differs from the layer before and never changes again.

    None where that is the last layer alone, or signs are no better sorted into two phases than random ones would be.
    """
    signs = np.sign(curve)
    turns = [layer for layer in range(1, len(curve)) if signs[layer] * signs[layer - 1] <= 0]
    lasts = bool(turns) and turns[-1] <= len(curve) - SMALLEST_SEGMENT
    return turns[-1] if lasts and _is_split(signs) else None


def change_point(curve: np.ndarray) -> int | None:
    """The layer that starts the second of two segments; None where no step stands out.

    A step must split the ranks of the layers better than 95 % of random orders do, and be no slow trend: it describes
    the curve better than a parabola, or stands out of a cubic. Curves of positive figures are compared as ratios: as
    logarithms, in which what fades with depth is no sharp bend.
    """
    import ruptures

    if not _is_split(_ranks(curve)):
        return None
    positive = bool(curve.min() > 0)
    values = _without_outliers(np.log(curve) if positive else curve)
    is_step = split_gain(values[None, :])[0] > _gain_of_a_trend(values)
    if not is_step and not (positive and _stands_out(values)):
        return None
    search = ruptures.Dynp(model="l2", min_size=SMALLEST_SEGMENT, jump=1).fit(values[:, None])
    return int(search.predict(n_bkps=1)[0])


def split_gain(rows: np.ndarray) -> np.ndarray:
    """How much squared error the best split into two segments removes: rows [M, L] -> [M]."""
    length = rows.shape[1]
    sizes = np.arange(SMALLEST_SEGMENT, length - SMALLEST_SEGMENT + 1)  # [S] layers before the split
    centred = rows - rows.mean(1, keepdims=True)
    heads = centred.cumsum(1)[:, sizes - 1]  # [M, S]
    return (heads**2 * (length / (sizes * (length - sizes)))).max(1)


def _is_split(values: np.ndarray) -> bool:
    """Whether at most 5 % of random orders can be split as well; the seed is fixed, so values alone decide."""
    if len(values) < SMALLEST_DEPTH:
        return False
    orders = np.random.default_rng(0).permuted(np.tile(np.sort(values), (PERMUTATIONS, 1)), axis=1)
    reached = split_gain(orders) >= split_gain(values[None, :]) * (1 - ROUNDING)
    return bool(reached.mean() <= SIGNIFICANCE)


def _without_outliers(curve: np.ndarray) -> np.ndarray:
    """[L]: first and last layer no further out than those between, and all within Tukey's fences."""
    inner = curve.clip(curve[1:-1].min(), curve[1:-1].max())
    first, third = np.percentile(inner, (25, 75))
    return inner.clip(first - FENCE * (third - first), third + FENCE * (third - first))


def _gain_of_a_trend(values: np.ndarray) -> float:
    """How much squared error a parabola removes, which has as many parameters as a step: two levels and a place."""
    depth = np.arange(len(values))
    left = values - np.polyval(np.polyfit(depth, values, 2), depth)
    return float(((values - values.mean()) ** 2).sum() - (left**2).sum())


def _stands_out(values: np.ndarray) -> bool:
    """Whether what a cubic leaves of the curve holds a step that hardly any random order of it holds."""
    depth = len(values)
    trend, _ = np.linalg.qr(np.vander(np.linspace(-1, 1, depth), 4))  # [L, 4]
    steps = np.arange(depth)[:, None] >= np.arange(SMALLEST_SEGMENT, depth - SMALLEST_SEGMENT + 1)  # [L, S]
    steps = steps - trend @ (trend.T @ steps)
    steps /= np.linalg.norm(steps, axis=0)
    left = values - trend @ (trend.T @ values)  # [L]
    orders = np.random.default_rng(0).permuted(np.tile(left, (PERMUTATIONS, 1)), axis=1)  # [M, L]
    orders -= orders @ trend @ trend.T
    rows = np.vstack([left, orders])
    share = ((rows @ steps) ** 2).max(1) / (rows**2).sum(1).clip(min=TINY)  # [1 + M] of the squares that are left
    return bool((share[1:] >= share[0]).mean() <= OUTSTANDING)


def _ranks(curve: np.ndarray) -> np.ndarray:
    from scipy.stats import rankdata

    return np.asarray(rankdata(curve), dtype=np.float64)


def _located(
    curve: np.ndarray, resampled: np.ndarray | None, search: Callable[[np.ndarray], int | None]
) -> dict[str, Any] | None:
    layer = search(curve)
    if layer is None:
        return None
    if resampled is None:
        return {"layer": layer}
    places = [place for row in resampled if (place := search(row)) is not None]
    row: dict[str, Any] = {"layer": layer, "found_share": len(places) / len(resampled)}
    if places:
        low, high = np.percentile(places, INTERVAL)
        row["lo"], row["hi"] = int(np.floor(low)), int(np.ceil(high))
    return row


def agreement(found: Mapping[str, Any]) -> Message:
    """Whether the intervals of the indicators meet.

    Args:
        found: what `phase_changes` returns, of two indicators or more.
    """
    rows = {name: found[name] for name in INDICATORS if name in found}
    places = {name: row for name, row in rows.items() if row is not None}
    missing = [message(f"phase_{name}") for name, row in rows.items() if row is None]
    if not places:
        return message("phases_none")
    listed = [message("phase_at", name=message(f"phase_{name}"), layer=row["layer"]) for name, row in places.items()]
    if missing:
        return message("phases_partly", found=listed, missing=missing)
    spans = [(row.get("lo", row["layer"]), row.get("hi", row["layer"])) for row in places.values()]
    apart = any(a[0] > b[1] or b[0] > a[1] for a, b in itertools.combinations(spans, 2))
    return message("phases_disagree" if apart else "phases_agree", found=listed)
