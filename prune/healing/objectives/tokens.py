"""The actual next token, and the original model's distribution over it: two losses in one pass over the logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import Field

from prune.healing.objectives.rule import Objective, Seen
from prune.settings import Settings

if TYPE_CHECKING:
    import torch


class TokenSettings(Settings):
    """Weights and temperature of both."""

    distill_weight: float = Field(
        1.0, ge=0, description="Weight of KL(original || pruned) over the next-token distributions; needs a teacher."
    )
    next_token_weight: float = Field(0.5, ge=0, description="Weight of the cross-entropy of the actual next token.")
    temperature: float = Field(
        1.0, gt=0, description="Softmax temperature of the distillation; the term is multiplied by its square."
    )


def _loss(seen: Seen, settings: TokenSettings) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
    from prune.healing.losses import token_losses

    token = token_losses(
        seen.logits,
        seen.targets,
        seen.teacher_logits if settings.distill_weight else None,
        next_token_weight=settings.next_token_weight,
        distill_weight=settings.distill_weight,
        temperature=settings.temperature,
    )
    return token.total, {"next_token": token.next_token, "distill": token.distill}


OBJECTIVE = Objective(
    weights=("distill_weight", "next_token_weight"),
    loss=_loss,
    parts=("next_token", "distill"),
    needs_teacher=lambda settings: settings.distill_weight > 0,
    recorded=True,
)
