"""Residual matching: the stream after each kept layer shall be the one that the original has there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import Field

from prune.healing.objectives.rule import Objective, Seen
from prune.settings import Settings

if TYPE_CHECKING:
    import torch


class ResidualSettings(Settings):
    """Its weight."""

    residual_weight: float = Field(
        0.0,
        ge=0,
        description="Weight of the relative squared distance between the two residual streams after each kept layer.",
    )


def residual_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Sum over N tokens of ‖student - teacher‖² / ‖teacher‖², in float32. Shapes [N, d]."""
    teacher = teacher.float()  # [N, d]
    distance = (student.float() - teacher).square().sum(-1)  # [N]
    return (distance / teacher.square().sum(-1).clamp_min(1e-12)).sum()


def _loss(seen: Seen, settings: ResidualSettings) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
    total = seen.logits.new_zeros(()).float()
    for student, teacher in seen.matched():
        total = total + residual_loss(student, teacher) / len(seen.matches)
    return settings.residual_weight * total, {"residual": total.detach()}


OBJECTIVE = Objective(
    weights=("residual_weight",),
    loss=_loss,
    parts=("residual",),
    needs_teacher=lambda settings: settings.residual_weight > 0,
    needs_states=True,
)
