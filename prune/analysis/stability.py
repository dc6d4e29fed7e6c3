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
QUANTILE = 1.645  # one-sided 95 %


def stability(parts: Sequence[Records], num_layers: int, replicates: int, seed: int) -> dict[str, Any]:
    """For each criterion measured: k, the layers chosen, how often resamples choose the same set, documents needed.

    Args:
        parts: the domains' records.
        num_layers: L.
        replicates: bootstrap resamples.
        seed: the same as the intervals'.

    Returns:
        Criterion key -> `layers`, `same_set` (share of resamples), `overlap` (mean share of the layers in common),
        `documents_needed` (an estimate, None when no number is in sight); plus `sentence` when there are too few. Empty
        when nothing can be resampled.
    """
    count, documents = num_layers // 4, sum(part.documents for part in parts)
    found: dict[str, Any] = {}
    if count < 1 or replicates < 1 or sum(part.groups for part in parts) < 2:
        return found
    draws = resampling(parts, replicates, seed)
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
        outlook = (
            message("documents_no_number")
            if needed is None
            else message("documents_needed", documents=max(needed, documents + 1))
        )
        said.append(
            message(
                "warn_few_documents", documents=documents, count=len(row["layers"]), criterion=message(name),
                share=row["same_set"], layers=row["layers"], outlook=outlook,
            )
        )  # fmt: skip
    return said


def _criterion(scores: np.ndarray, resampled: np.ndarray, count: int, documents: int) -> dict[str, Any]:
    order = np.argsort(scores, kind="stable")
    chosen = set(order[:count].tolist())
    picks = np.argsort(resampled, axis=1, kind="stable")[:, :count]  # [R, k]
    common = np.isin(picks, list(chosen)).sum(1)  # [R]
    inside, outside = int(order[count - 1]), int(order[count])
    margin = float(scores[outside] - scores[inside])
    spread = float((resampled[:, outside] - resampled[:, inside]).std())
    needed = documents * (QUANTILE * spread / margin) ** 2 if margin > 0 else math.inf
    return {
        "layers": sorted(chosen),
        "same_set": float((common == count).mean()),
        "overlap": float(common.mean() / count),
        "documents_needed": math.ceil(needed) if math.isfinite(needed) and needed < 1e9 else None,
    }
