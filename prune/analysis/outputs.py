"""How altered predictions differ from the clean ones.

Effects count where a prediction counts: positions whose next token is in the loss. Logits are made a chunk of tokens
at a time, the clean ones once a chunk and not once an alteration.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from prune.analysis.clean_pass import CleanPass
from prune.analysis.statistics import Records
from prune.model.tracing import LOGITS_PER_CHUNK


def record_outputs(
    clean: CleanPass, records: Records, name: str, streams: Sequence[torch.Tensor], kinds: Sequence[str] = ()
) -> None:
    """Add `name/{dnll,kl,l2_mean,l2_max,top1}` [K], or only `kinds` of them, and the clean `nll` of each document.

    dnll: rise of the negative log-likelihood of the actual next token, nats per token. kl: KL(p ‖ p'), nats.
    l2: ‖p - p'‖₂, mean and maximum over tokens. top1: share of tokens whose likeliest next token stays the same.

    Args:
        streams: K tensors [B, T, d] after the last layer.
    """
    sums, maxima, nll, counted = compare_outputs(clean, streams)
    weights = counted.cpu().numpy()
    if not clean.nll_recorded:
        records.add("nll", clean.index, nll.cpu().numpy(), weights)
        clean.nll_recorded = True
    for kind, value in sums.items():
        if not kinds or kind in kinds:
            records.add(f"{name}/{kind}", clean.index, value.cpu().numpy(), weights)
    if not kinds or "l2_max" in kinds:
        records.add_maximum(f"{name}/l2_max", maxima.cpu().numpy())


def compare_outputs(
    clean: CleanPass, streams: Sequence[torch.Tensor]
) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor, torch.Tensor]:
    """Predictions from K altered final streams against the clean ones.

    The clean logits are computed once a chunk of tokens, not once an alteration.

    Args:
        streams: K tensors [B, T, d] after the last layer.

    Returns:
        sums over each document's counted tokens (dnll, kl, l2_mean, top1 -> [B, K] float64), the largest ‖p - p'‖₂
        [B, K], the clean negative log-likelihood [B], and the number of counted tokens [B].
    """
    walk = clean.walk
    row, position = walk.counted()  # [n], [n]
    rows, kinds = len(clean.index), ("dnll", "kl", "l2_mean", "top1")
    sums = {kind: torch.zeros(rows, len(streams), dtype=torch.float64) for kind in kinds}  # [B, K]
    maxima = torch.zeros(rows, len(streams), dtype=torch.float64)  # [B, K]
    nll = torch.zeros(rows, dtype=torch.float64)  # [B]
    chunk = max(1, LOGITS_PER_CHUNK // walk.vocabulary)
    for begin in range(0, len(row), chunk):
        r, p = row[begin : begin + chunk], position[begin : begin + chunk]  # [c], [c]
        target = walk.batch.input_ids[r, p + 1][:, None]  # [c, 1]
        log_p = walk.logits(walk.resid_pre[-1][r, p]).float().log_softmax(-1)  # [c, V]
        prob, choice, target = log_p.exp(), log_p.argmax(-1), target.to(log_p.device)
        nll += torch.from_numpy(clean.by_document(-log_p.gather(-1, target)[:, 0], r))
        for number, stream in enumerate(streams):
            log_q = walk.logits(stream[r, p]).float().log_softmax(-1)  # [c, V]
            distance = torch.linalg.vector_norm(prob - log_q.exp(), dim=-1)  # [c]
            values = {
                "dnll": (log_p - log_q).gather(-1, target)[:, 0],
                "kl": (prob * (log_p - log_q)).sum(-1),
                "l2_mean": distance,
                "top1": log_q.argmax(-1).eq(choice),
            }
            for kind, value in values.items():
                sums[kind][:, number] += torch.from_numpy(clean.by_document(value, r))
            maxima[:, number].scatter_reduce_(0, r.cpu(), distance.double().cpu(), "amax")
    counted = torch.bincount(row.cpu(), minlength=rows).double()  # [B]
    return sums, maxima, nll, counted
