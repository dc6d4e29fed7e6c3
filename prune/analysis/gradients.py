"""Integrated gradients: what each part of the prompt contributes, at each depth, to the completion's likelihood.

The path leads from the prompt's mean stream (as in residual erasure) to the stream itself, before layer l; the
attributions of a document sum to the difference in log-likelihood between its ends. The only measurement that needs
gradients: of the stream, never of the weights.
"""

from __future__ import annotations

import torch

from prune.analysis.clean_pass import CleanPass
from prune.analysis.interventions import at_once
from prune.analysis.prompts import SEGMENTS, Prompts, prompts_of
from prune.analysis.statistics import Records
from prune.model.tracing import LOGITS_PER_CHUNK, stream_of

STEPS = 16  # midpoints along the path


def measure(clean: CleanPass, records: Records) -> None:
    """Add `integrated_gradients/share` [L, 8]: |attribution| of each eighth of the prompt over the prompt's sum.

    Mean over documents. Sources: Sundararajan et al. 2017, eq. 1; arXiv 2505.13898, sect. 5. Costs `STEPS` forward and
    backward passes of the layers from each layer on.
    """
    prompts = prompts_of(clean)
    if not prompts.rows:
        return
    segment = prompts.segment[..., None] == torch.arange(SEGMENTS, device=prompts.segment.device)  # [B, T, 8]
    rows = []
    for layer in range(clean.num_layers):
        size = attributions(clean, prompts, layer).abs()  # [B, T]
        parts = (size[..., None] * segment.to(size.device)).sum(1)  # [B, 8]
        rows.append(parts / parts.sum(1, keepdim=True).clamp(min=1e-30))
    shares = torch.stack(rows, 1).double().cpu().numpy()[prompts.rows]  # [b, L, 8]
    records.add("integrated_gradients/share", prompts.index, shares, shares[:, 0].sum(1))


def attributions(clean: CleanPass, prompts: Prompts, layer: int, steps: int = STEPS) -> torch.Tensor:
    """Integrated gradients of each document's log-likelihood with respect to the stream before `layer`.

    Args:
        steps: midpoints along the path; as many at a time as `points_at_once` says.

    Returns:
        [B, T] float32, nats; 0 outside the prompts.
    """
    stream = clean.walk.resid_pre[layer]  # [B, T, d]
    start = prompts.erased(stream)
    total = torch.zeros(stream.shape, dtype=torch.float32, device=stream.device)
    middles = (torch.arange(steps, device=stream.device) + 0.5) / steps
    for shares in middles.to(stream.dtype).split(points_at_once(clean, layer)):  # [K]
        points = (start + shares[:, None, None, None] * (stream - start)).flatten(0, 1)  # [K·B, T, d]
        points.requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(_log_likelihood(clean, points, layer), points)
        total += gradient.unflatten(0, (len(shares), -1)).float().sum(0)
    return (total / steps * (stream - start).float()).sum(-1)


def points_at_once(clean: CleanPass, layer: int) -> int:
    """How many points of the path run together: all layers from `layer` on, and all logits, stay in memory."""
    counted = max(1, len(clean.walk.counted()[0]))
    by_logits = LOGITS_PER_CHUNK // (counted * clean.walk.vocabulary)
    return max(1, min(at_once(clean) // (clean.num_layers - layer), by_logits))


def _log_likelihood(clean: CleanPass, hidden: torch.Tensor, layer: int) -> torch.Tensor:
    """Summed over all rows [K·B, T, d]; they do not see each other, so its gradient holds every row's own."""
    walk, rows = clean.walk, len(clean.index)
    copies = hidden.shape[0] // rows
    for index in range(layer, clean.num_layers):
        hidden = stream_of(walk.call(index, hidden, copies))
    row, position = walk.counted()
    hidden = hidden.unflatten(0, (copies, rows))  # [K, B, T, d]
    total = hidden.new_zeros((), dtype=torch.float32)
    chunk = max(1, LOGITS_PER_CHUNK // (copies * walk.vocabulary))
    for begin in range(0, len(row), chunk):
        r, p = row[begin : begin + chunk], position[begin : begin + chunk]  # [n], [n]
        logits = walk.differentiable_logits(hidden[:, r.to(hidden.device), p.to(hidden.device)]).float()  # [K, n, V]
        target = walk.batch.input_ids[r, p + 1].to(logits.device).repeat(copies)  # [K·n]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), target, reduction="sum")
        total = total - loss.to(total.device)
    return total
