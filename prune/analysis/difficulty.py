"""Do harder documents use more depth? (arXiv 2505.13898, section 5)

The depth score of a document is the mean layer index weighted by what each layer does to it, Σ s·e[s] / Σ e[s]. It is
set against the user's `difficulty` (MATH level, number of steps): slope, Spearman's ρ, both with intervals over
documents, and a verdict that may be 'cannot tell'. Works on the per-document sums alone; no model is run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from prune.analysis.statistics import INTERVAL, Records
from prune.data.domains import Domain
from prune.wording import Message, message
from prune.wording.text import english

EFFECTS = {
    "output_effect/l2_mean": "what leaving the layer out does to the predictions, ‖p - p'‖₂",
    "output_effect/kl": "what leaving the layer out does to the predictions, KL(p ‖ p')",
    "relative_contribution/layer": "what the layer writes relative to the stream",
}
"""Effects that are never negative, so that they can weigh layers; each gives a depth score of its own."""

RELEVANT_SHARE = 0.02
"""A shift of the depth score, easiest to hardest, below this share of the layers is 'does not adapt'."""

FEWEST_DOCUMENTS = 12


def depth_scores(records: Records, key: str) -> np.ndarray:
    """Depth score of every document, in layers: [D] float64, NaN where a document has no effects.

    Args:
        records: one domain's sums, one group a document.
        key: a measurement of shape [L] that is never negative.
    """
    effects = records.sums[key] / np.where(records.weights[key] > 0, records.weights[key], np.nan)[:, None]  # [D, L]
    total = effects.sum(1)
    return (effects @ np.arange(effects.shape[1])) / np.where(total > 0, total, np.nan)


def difficulty_report(
    records: Mapping[str, Records], domains: Mapping[str, Domain], num_layers: int, replicates: int, seed: int
) -> tuple[dict[str, Any], dict[str, np.ndarray], list[Message]]:
    """Depth against difficulty for every domain whose documents carry one.

    Args:
        records: domain -> sums.
        domains: domain -> documents.
        num_layers: L.
        replicates: bootstrap resamples over documents.
        seed: of the resampling.

    Returns:
        For the sidecar: domain -> effect key -> `documents`, `levels` (difficulty -> mean score), `slope` (layers per
        unit of difficulty), `shift` (layers, easiest to hardest), `spearman`, each of these three with `_lo` and `_hi`,
        `length_spearman` (of difficulty with the number of tokens: a rival explanation), `relevant_shift` (from which
        on a shift counts), `verdict`, `sentence`; or domain -> `reason` when it could not be measured. A ρ is None
        where scores or lengths are all the same. Arrays for the plot:
        `by_domain/NAME/difficulty` [D], `by_domain/NAME/depth_score/KEY` [D]. And a warning for every `reason`.
    """
    report: dict[str, Any] = {}
    arrays: dict[str, np.ndarray] = {}
    warnings: list[Message] = []
    for name, domain in domains.items():
        known = [document.difficulty for document in domain.documents]
        if all(value is None for value in known):
            continue
        keys = [key for key in EFFECTS if key in records[name].sums]
        if (reason := _unmeasured(records[name], keys)) is not None:
            report[name] = {"reason": english(reason)}
            warnings.append(message("warn_difficulty", domain=name, reason=reason))
        else:
            difficulty = np.array([np.nan if value is None else value for value in known])  # [D]
            length = np.array([len(document.input_ids) for document in domain.documents], dtype=np.float64)  # [D]
            arrays[f"by_domain/{name}/difficulty"] = difficulty
            report[name] = {}
            for key in keys:
                score = depth_scores(records[name], key)
                arrays[f"by_domain/{name}/depth_score/{key}"] = score
                report[name][key] = relation(difficulty, score, length, num_layers, replicates, seed)
    return report, arrays, warnings


def _unmeasured(records: Records, keys: Sequence[str]) -> Message | None:
    if not keys:
        return message("difficulty_no_effect")
    if records.groups < records.documents:
        return message("difficulty_grouped", documents=records.documents, groups=records.groups)
    return None


def relation(
    difficulty: np.ndarray, score: np.ndarray, length: np.ndarray, num_layers: int, replicates: int, seed: int
) -> dict[str, Any]:
    """Slope, rank correlation and verdict of depth scores [D] against difficulty [D]; see `difficulty_report`."""
    usable = np.isfinite(difficulty) & np.isfinite(score)
    x, y, tokens = difficulty[usable], score[usable], length[usable]
    levels = {f"{level:g}": float(y[x == level].mean()) for level in np.unique(x)}
    row: dict[str, Any] = {"documents": len(x), "levels": levels}
    if len(levels) < 2 or len(x) < FEWEST_DOCUMENTS:
        reason = "one level of difficulty" if len(levels) < 2 else f"{len(x)} documents"
        return {**row, "verdict": "cannot tell", "sentence": f"cannot tell: only {reason}"}
    span = float(x.max() - x.min())
    draws = np.random.default_rng(seed).integers(len(x), size=(max(replicates, 1), len(x)))  # [R, D]
    draws = draws[[len(np.unique(x[draw])) > 1 for draw in draws]]  # a resample of one level has no slope
    slopes = np.array([_slope(x[draw], y[draw]) for draw in draws])
    ranks = [rank for draw in draws if (rank := _spearman(x[draw], y[draw])) is not None]
    low, high = np.percentile(slopes, INTERVAL)
    rank_low, rank_high = map(float, np.percentile(ranks, INTERVAL)) if ranks else (None, None)
    slope = _slope(x, y)
    row |= {
        "slope": slope, "slope_lo": float(low), "slope_hi": float(high),
        "shift": slope * span, "shift_lo": float(low) * span, "shift_hi": float(high) * span,
        "spearman": _spearman(x, y), "spearman_lo": rank_low, "spearman_hi": rank_high,
        "length_spearman": _spearman(x, tokens),
    }  # fmt: skip
    row["relevant_shift"] = RELEVANT_SHARE * num_layers
    row["verdict"] = _verdict(row, row["relevant_shift"])
    row["sentence"] = (
        f"{row['verdict']}: from the easiest to the hardest documents the depth score moves by {row['shift']:+.2f} "
        f"layers of {num_layers} [{row['shift_lo']:+.2f}, {row['shift_hi']:+.2f}]"
    )
    if row["spearman"] is not None:
        row["sentence"] += f", ρ = {row['spearman']:+.2f}"
    return row


def _slope(x: np.ndarray, y: np.ndarray) -> float:
    centred = x - x.mean()
    return float(centred @ y / (centred @ centred))


def _spearman(x: np.ndarray, y: np.ndarray) -> float | None:
    """Spearman's ρ; None where either is the same everywhere, as scores of like documents are."""
    from scipy.stats import spearmanr

    return float(spearmanr(x, y).statistic) if np.ptp(x) > 0 and np.ptp(y) > 0 else None


def _verdict(row: Mapping[str, float], margin: float) -> str:
    """By the interval of the shift: wholly below a relevant shift, wholly above zero and relevant, or neither."""
    if row["shift_hi"] < margin:
        return "does not adapt"
    if row["shift_lo"] > 0 and row["shift"] >= margin:
        return "adapts"
    return "cannot tell"
