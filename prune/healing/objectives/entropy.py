"""Distillation that counts most where the original itself is undecided: KL weighted by the entropy of its distribution.

After the entropy-aware distillation of E³-Pruner (arXiv 2511.17205). Assumption: weights are relative to their mean
over the batch, so the term has the scale of plain distillation and takes its learning rate.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import Field

from prune.healing.objectives.rule import Objective, Seen
from prune.settings import Settings

if TYPE_CHECKING:
    import torch

    from prune.healing.buckets import Buckets


class EntropySettings(Settings):
    """Its weight."""

    entropy_weight: float = Field(
        0.0,
        ge=0,
        description="Weight of KL(original || pruned) in which a position counts by the entropy of the original's "
        "distribution there over the batch's mean entropy; needs a teacher. For it alone set distill_weight to 0.",
    )


def entropy_weights(teacher: torch.Tensor | Buckets) -> torch.Tensor:
    """[N] float32: the entropy of each position's distribution over the mean of them; [N, V] logits, or buckets.

    Where no position has any entropy all count the same.
    """
    import torch

    from prune.healing.losses import CHUNK

    if isinstance(teacher, torch.Tensor):
        rows = max(1, CHUNK // teacher.shape[1])
        entropy = torch.cat([_entropy(part) for part in teacher.split(rows)])  # [N]
    else:
        entropy = teacher.entropy
    mean = entropy.mean()
    return entropy / mean if mean > 0 else torch.ones_like(entropy)


def _entropy(logits: torch.Tensor) -> torch.Tensor:
    log_q = logits.float().log_softmax(-1)  # [n, V]
    return -(log_q.exp() * log_q).sum(-1).clamp_max(0)  # [n]


def _loss(seen: Seen, settings: EntropySettings) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
    from prune.healing.losses import token_losses

    assert seen.teacher_logits is not None
    weighted = token_losses(
        seen.logits,
        seen.targets,
        seen.teacher_logits,
        next_token_weight=0.0,
        distill_weight=settings.entropy_weight,
        position_weights=entropy_weights(seen.teacher_logits),
    )
    return weighted.total, {"entropy": weighted.distill}


OBJECTIVE = Objective(
    weights=("entropy_weight",),
    loss=_loss,
    parts=("entropy",),
    needs_teacher=lambda settings: settings.entropy_weight > 0,
)
