"""Are there enough documents to rank the layers? How often the same ones are chosen when documents are resampled.

No other tool reports this, and a plan made from a ranking that another draw of documents would change is a guess.
The layers 'chosen' are the k = L // 4 that the criterion would drop first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from prune.analysis.statistics import Records, ratio, resampling
from prune.wording import Message, message
from prune.wording.text import english

CRITERIA = {"block_influence": "criterion_block_influence", "output_effect/dnll": "criterion_dnll"}
"""Measurement that ranks the layers -> its name in the catalogue."""
ENOUGH = 0.9  # of the resamples choose the very same layers
BEYOND_REACH = 1e6  # documents
FEWEST = 2  # documents; one alone leaves nothing to compare, however clear it is


def stability(parts: Sequence[Records], num_layers: int, replicates: int, seed: int) -> dict[str, Any]:
    """For each criterion measured: k, the layers chosen, how often resamples choose the same set, documents needed.

    Args:
        parts: the domains' records.
        num_layers: L.
        replicates: bootstrap resamples.
        seed: the same as the intervals'.

    Returns:
        Criterion key -> `layers`, `same_set` (share of resamples), `overlap` (mean share of the layers in common),
        `documents_needed` (an estimate, None when no number is in sight; see `_documents_needed`); plus `sentence` when
        there are too few. Empty when nothing can be resampled.
    """
    count, documents = num_layers // 4, sum(part.documents for part in parts)
    found: dict[str, Any] = {}
    draws = resampling(parts, replicates, seed)
    if count < 1 or draws is None:
        return found
    for key in CRITERIA:
        if any(key in part.sums for part in parts):
            found[key] = _criterion(ratio(parts, key), ratio(parts, key, draws), count, documents)
    if few := too_few_documents(found, documents):
        found["sentence"] = " ".join(english(line) for line in few)
    return found


def too_few_documents(found: Mapping[str, Any], documents: int) -> list[Message]:
    """One message for each criterion whose choice of layers another draw of documents would change.

    Args:
        found: what `stability` returns.
        documents: of all domains.
    """
    said = []
    for key, name in CRITERIA.items():
        row = found.get(key)
        if row is None or row["same_set"] >= ENOUGH:
            continue
        needed = row["documents_needed"]
        outlook = message("documents_no_number") if needed is None else message("documents_needed", documents=needed)
        said.append(
            message(
                "warn_few_documents", documents=documents, count=len(row["layers"]), criterion=message(name),
                share=row["same_set"], layers=row["layers"], outlook=outlook,
            )
        )  # fmt: skip
    return said


def _criterion(scores: np.ndarray, resampled: np.ndarray, count: int, documents: int) -> dict[str, Any]:
    """Of scores [L] and their resamples [R, L]."""
    order = np.argsort(scores, kind="stable")
    chosen, others = order[:count], order[count:]
    picks = np.argsort(resampled, axis=1, kind="stable")[:, :count]  # [R, k]
    common = np.isin(picks, chosen).sum(1)  # [R]
    return {
        "layers": sorted(chosen.tolist()),
        "same_set": float((common == count).mean()),
        "overlap": float(common.mean() / count),
        "documents_needed": _documents_needed(scores, resampled - scores, chosen, others, documents),
    }


def _documents_needed(
    scores: np.ndarray, errors: np.ndarray, chosen: np.ndarray, others: np.ndarray, documents: int
) -> int | None:
    """How many documents let `ENOUGH` of the resamples choose the same layers; None when no number is in sight.

    With n times the documents the errors of resampled scores shrink by √n. Each resample has a factor by which its
    errors may be multiplied before some other layer passes a chosen one; `ENOUGH` of them must allow 1/√n.

    Args:
        scores: [L].
        errors: [R, L] resampled less plain scores.
        chosen: the layers of lowest score.
        others: all the others.
        documents: behind the resamples.
    """
    factor = np.full(len(errors), np.inf)  # [R]
    for layer in chosen:
        closing = errors[:, [layer]] - errors[:, others]  # [R, L-k] how much of the margin a resample takes away
        margin = scores[others] - scores[layer]  # [L-k]
        allowed = np.where(closing > 0, margin / np.where(closing > 0, closing, 1), np.inf)
        factor = np.minimum(factor, allowed.min(1))
    smallest = float(np.quantile(factor, 1 - ENOUGH, method="lower"))
    needed = documents / smallest**2 if smallest > 0 else math.inf
    return max(FEWEST, math.ceil(needed)) if needed < BEYOND_REACH else None
