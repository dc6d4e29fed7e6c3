"""Next token and distillation as one pure function of tensors, for `objectives.tokens`.

Assumptions: logits come flattened to the positions whose next token counts (padding and prompts are already gone);
what is returned is a **sum** over positions, so that the caller divides by the number of counted tokens of the
whole accumulated batch; the vocabulary is wide, so float32 copies exist for `CHUNK` elements at a time only.

The gradient of the two softmax losses is closed-form, with z the student's logits, q the teacher's distribution at
temperature T and p_T the student's:  d CE/dz = p - onehot(target),  d T²·KL(q || p_T)/dz = T·(p_T - q).  It is made in
the forward pass, chunk by chunk, so nothing of size [N, V] besides the gradient itself is kept for the backward pass.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from prune.healing.buckets import Buckets

CHUNK = 1 << 22  # elements of a float32 copy: 16 MB


class TokenLosses(NamedTuple):
    """Sums over positions. Only `total` carries a gradient.

    Attributes:
        total: next_token_weight · next_token + distill_weight · distill.
        next_token: cross-entropy of the actual tokens, nats.
        distill: T² · KL(teacher || student) at temperature T, nats.
    """

    total: torch.Tensor
    next_token: torch.Tensor
    distill: torch.Tensor


def token_losses(
    student_logits: torch.Tensor,
    targets: torch.Tensor,
    teacher_logits: torch.Tensor | Buckets | None = None,
    *,
    next_token_weight: float = 1.0,
    distill_weight: float = 0.0,
    temperature: float = 1.0,
    position_weights: torch.Tensor | None = None,
) -> TokenLosses:
    """Next-token and distillation loss in one pass over the logits (Hinton et al. 2015, eq. 2-4).

    Args:
        student_logits: [N, V], any float type.
        targets: [N] int64, the actual next tokens.
        teacher_logits: [N, V], or what was kept of the distributions (temperature is 1 then); none: no distillation.
        next_token_weight: of the cross-entropy.
        distill_weight: of the divergence.
        temperature: T; the divergence is multiplied by T² so that its gradient keeps its scale.
        position_weights: [N] float32, of the divergence at each position; 1 if none.
    """
    weight = distill_weight if teacher_logits is not None else 0.0
    return TokenLosses(
        *_TokenLosses.apply(
            student_logits, targets, teacher_logits, next_token_weight, weight, temperature, position_weights
        )
    )


class _TokenLosses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        student: torch.Tensor,
        targets: torch.Tensor,
        teacher: torch.Tensor | Buckets | None,
        next_token_weight: float,
        distill_weight: float,
        temperature: float,
        position_weights: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        count, vocabulary = student.shape
        gradient = torch.empty_like(student) if ctx.needs_input_grad[0] else None  # [N, V]
        next_token = student.new_zeros((), dtype=torch.float32)
        distill = student.new_zeros((), dtype=torch.float32)
        rows = max(1, CHUNK // vocabulary)
        for begin in range(0, count, rows):
            chunk = slice(begin, begin + rows)
            logits, target = student[chunk].float(), targets[chunk].unsqueeze(1)  # [n, V], [n, 1]
            log_p = logits.log_softmax(-1)  # [n, V]
            next_token -= log_p.gather(1, target).sum()
            plain = teacher is None or temperature == 1
            log_p_t = log_p if plain else (logits / temperature).log_softmax(-1)  # [n, V]
            log_q = None if teacher is None else _teacher(teacher, chunk, log_p_t, temperature)  # [n, V]
            q = None if log_q is None else log_q.exp()  # [n, V]
            if q is not None and log_q is not None:
                each = q * (log_q - log_p_t)  # [n, V]
                if position_weights is not None:
                    each *= position_weights[chunk].unsqueeze(1)
                distill += temperature**2 * each.sum()
            if gradient is not None:
                p = log_p.exp()  # [n, V]
                part = next_token_weight * p  # [n, V]
                part.scatter_add_(1, target, part.new_full(target.shape, -next_token_weight))
                if q is not None and distill_weight:
                    p_t = p if log_p_t is log_p else log_p_t.exp_()  # [n, V]
                    pull = p_t.sub_(q)  # [n, V]
                    if position_weights is not None:
                        pull *= position_weights[chunk].unsqueeze(1)
                    part.add_(pull, alpha=distill_weight * temperature)
                gradient[chunk] = part
        if gradient is not None:
            ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(next_token, distill)
        return next_token_weight * next_token + distill_weight * distill, next_token, distill

    @staticmethod
    def backward(ctx: Any, *outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * outputs[0].to(gradient.dtype), None, None, None, None, None, None


def _teacher(teacher: torch.Tensor | Buckets, rows: slice, log_p: torch.Tensor, temperature: float) -> torch.Tensor:
    """[n, V] log-probabilities of the teacher at some positions; `log_p` are the student's there."""
    if isinstance(teacher, Buckets):
        return teacher.completed(rows, log_p)
    return (teacher[rows].float() / temperature).log_softmax(-1)
