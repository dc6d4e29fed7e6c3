"""Several checkpoints side by side: what they can do, what they cost, how they use depth and width, which are worth it.

The first one is the reference: retention is against it. Any checkpoints will do (an original, its pruned and healed
versions, another shallower model), as long as the tests put the same prompts to all; only then are scores paired.
A checkpoint is on the Pareto front when no other is at least as good and as cheap and better in one of the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from prune.files import write_json
from prune.wording import Message, Text

if TYPE_CHECKING:
    from evals.evidence import Evidence
    from prune.analysis.result import Analysis


class SuiteFigure(BaseModel):
    """One suite on one checkpoint; retention and verdict are against the reference and absent for it."""

    score: float
    retention: float | None = None
    retention_lo: float | None = None
    retention_hi: float | None = None
    verdict: str | None = None


class Compared(BaseModel):
    """One checkpoint.

    Attributes:
        suites: name -> figures; absent where nothing was tested.
        depth_score: mean layer weighted by relative contribution, as a share of the depth; 0.5 is even use.
        block_influence: [L] per layer.
        relative_contribution: [L] per layer.
        width_used: largest participation ratio of the stream over depths, as a share of its width.
        pareto: on the front of quality against decode time per token; None when quality or speed is unknown.
    """

    model_config = ConfigDict(extra="forbid")

    name: str
    num_layers: int
    parameters: int
    bytes: int
    kv_bytes_per_token: int
    prefill_tokens_per_s: float | None = None
    decode_tokens_per_s: float | None = None
    suites: dict[str, SuiteFigure] = {}
    depth_score: float | None = None
    block_influence: list[float] | None = None
    relative_contribution: list[float] | None = None
    width_used: float | None = None
    pareto: bool | None = None

    @property
    def quality(self) -> float | None:
        """Mean retention over suites (1 for the reference); None where one is undefined or nothing was tested."""
        if not self.suites:
            return None
        kept = [1.0 if s.verdict is None else s.retention for s in self.suites.values()]
        return None if any(k is None for k in kept) else float(np.mean([k for k in kept if k is not None]))


class Comparison(BaseModel):
    """The rows, the reference first, and what was not measured."""

    model_config = ConfigDict(extra="forbid")

    models: list[Compared]
    setting: Message
    depth_map: dict[str, Any] | None = None

    def save(self, path: Path, lang: str = "en") -> None:
        """As JSON, atomically; messages with their sentence in that language."""
        write_json(path, Text(lang).spelled(self.model_dump(mode="json")))


def suite_figures(evidence: Evidence | None, reference: Evidence | None) -> dict[str, SuiteFigure]:
    """A checkpoint's suites from its evidence against the reference; the reference's own from any such evidence."""
    if evidence is not None:
        return {
            s.name: SuiteFigure(
                score=s.candidate,
                retention=s.retention,
                retention_lo=s.retention_lo,
                retention_hi=s.retention_hi,
                verdict=s.verdict,
            )
            for s in evidence.suites
            if s.candidate is not None
        }
    rows = reference.suites if reference is not None else []
    return {s.name: SuiteFigure(score=s.original) for s in rows if s.original is not None}


def depth_use(analysis: Analysis, width: int) -> dict[str, Any]:
    """The fields of `Compared` that an analysis gives.

    Args:
        analysis: with contributions; residual width where it was measured.
        width: d_model, of the stream.
    """
    contribution = analysis["relative_contribution/layer"].astype(np.float64)  # [L]
    deepest = max(1, analysis.num_layers - 1)
    found: dict[str, Any] = {
        "depth_score": float(contribution @ np.arange(len(contribution)) / contribution.sum() / deepest),
        "relative_contribution": contribution.tolist(),
        "block_influence": analysis["block_influence"].astype(np.float64).tolist(),
    }
    ratio = analysis.measurements.get("width/participation_ratio")
    if ratio is not None:
        found["width_used"] = float(ratio.max() / width)
    return found


def mark_pareto(models: Sequence[Compared]) -> None:
    """Set `pareto` on every checkpoint of known quality and speed."""
    known = [(m, m.quality, m.decode_tokens_per_s) for m in models]
    points = [(m, quality, 1 / speed) for m, quality, speed in known if quality is not None and speed]
    for model, quality, cost in points:
        model.pareto = not any(
            other_quality >= quality and other_cost <= cost and (other_quality > quality or other_cost < cost)
            for _, other_quality, other_cost in points
        )
