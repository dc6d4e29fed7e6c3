"""How altered predictions differ from the clean ones.

Effects count where a prediction counts: positions whose next token is in the loss. Logits are made a chunk of tokens
at a time, the clean ones once a chunk and not once an alteration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from prune.analysis.clean_pass import CleanPass
from prune.analysis.statistics import Records
from prune.model.tracing import LOGITS_PER_CHUNK

KINDS = ("dnll", "kl", "l2_mean", "top1")


@dataclass(frozen=True)
class Comparison:
    """Predictions from K altered final streams against the clean ones, of B documents; all float64, on CPU.

    Attributes:
        sums: kind -> [B, K], sums over each document's counted tokens.
        maxima: [B, K], the largest ‖p - p'‖₂.
        misses: [B, K], counted tokens that are not the altered run's likeliest.
        nll: [B], the clean negative log-likelihood.
        clean_misses: [B], counted tokens that are not the clean run's likeliest.
        counted: [B], the number of counted tokens.
    """

    sums: dict[str, torch.Tensor]
    maxima: torch.Tensor
    misses: torch.Tensor
    nll: torch.Tensor
    clean_misses: torch.Tensor
    counted: torch.Tensor


def record_outputs(
    clean: CleanPass,
    records: Records,
    name: str,
    streams: Sequence[torch.Tensor],
    kinds: Sequence[str] = (),
    *,
    answers: bool = False,
) -> None:
    """Add `name/{dnll,kl,l2_mean,l2_max,top1}` [K], or only `kinds` of them, and the clean `nll` of each document.

    dnll: rise of the negative log-likelihood of the actual next token, nats per token. kl: KL(p ‖ p'), nats.
    l2: ‖p - p'‖₂, mean and maximum over tokens. top1: share of tokens whose likeliest next token stays the same.

    Args:
        streams: K tensors [B, T, d] after the last layer.
        answers: add `name/answer_accuracy` [K], too: the share of the documents with a prompt whose every answer token
            is the altered run's likeliest next token (of equally likely ones the lowest id, as lm-eval's greedy match
            has it); and the clean run's share, `answer_accuracy_clean`. Other documents do not count.
    """
    found = compare_outputs(clean, streams)
    weights = found.counted.numpy()
    if not clean.nll_recorded:
        records.add("nll", clean.index, found.nll.numpy(), weights)
        clean.nll_recorded = True
    for kind, value in found.sums.items():
        if not kinds or kind in kinds:
            records.add(f"{name}/{kind}", clean.index, value.numpy(), weights)
    if not kinds or "l2_max" in kinds:
        records.add_maximum(f"{name}/l2_max", found.maxima.numpy())
    if answers:
        _add_accuracy(clean, records, f"{name}/answer_accuracy", found.misses, weights)
        _add_accuracy(clean, records, "answer_accuracy_clean", found.clean_misses, weights)


def _add_accuracy(clean: CleanPass, records: Records, key: str, misses: torch.Tensor, counted: np.ndarray) -> None:
    """The share of documents with a prompt that have no miss; nothing where no document of the batch has one.

    Args:
        misses: [B, ...] counted tokens that are not the likeliest.
        counted: [B] counted tokens; of plain text that is every token but the first.
    """
    rows = np.flatnonzero(counted < clean.lengths - 1)  # [b]
    if len(rows):
        index = [clean.index[row] for row in rows]
        records.add(key, index, misses.eq(0).double().numpy()[rows], np.ones(len(rows)))


def compare_outputs(clean: CleanPass, streams: Sequence[torch.Tensor]) -> Comparison:
    """Predictions from K altered final streams against the clean ones.

    The clean logits are computed once a chunk of tokens, not once an alteration.

    Args:
        streams: K tensors [B, T, d] after the last layer.
    """
    walk = clean.walk
    row, position = walk.counted()  # [n], [n]
    rows = len(clean.index)
    sums = {kind: torch.zeros(rows, len(streams), dtype=torch.float64) for kind in KINDS}  # [B, K]
    maxima = torch.zeros(rows, len(streams), dtype=torch.float64)  # [B, K]
    misses = torch.zeros(rows, len(streams), dtype=torch.float64)  # [B, K]
    nll, clean_misses = torch.zeros(rows, dtype=torch.float64), torch.zeros(rows, dtype=torch.float64)  # [B], [B]
    chunk = max(1, LOGITS_PER_CHUNK // walk.vocabulary)

    def by_document(values: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(clean.by_document(values, r))

    for begin in range(0, len(row), chunk):
        r, p = row[begin : begin + chunk], position[begin : begin + chunk]  # [c], [c]
        target = walk.batch.input_ids[r, p + 1][:, None]  # [c, 1]
        # The choice is read off the logits: rounding in a log-softmax can make two of them equal.
        choice, log_p = _predicted(walk.logits(walk.resid_pre[-1][r, p]))  # [c], [c, V]
        prob, target = log_p.exp(), target.to(log_p.device)
        nll += by_document(-log_p.gather(-1, target)[:, 0], r)
        clean_misses += by_document(choice.ne(target[:, 0]), r)
        for number, stream in enumerate(streams):
            altered, log_q = _predicted(walk.logits(stream[r, p]))  # [c], [c, V]
            distance = torch.linalg.vector_norm(prob - log_q.exp(), dim=-1)  # [c]
            values = {
                "dnll": (log_p - log_q).gather(-1, target)[:, 0],
                "kl": (prob * (log_p - log_q)).sum(-1),
                "l2_mean": distance,
                "top1": altered.eq(choice),
            }
            for kind, value in values.items():
                sums[kind][:, number] += by_document(value, r)
            misses[:, number] += by_document(altered.ne(target[:, 0]), r)
            maxima[:, number].scatter_reduce_(0, r.cpu(), distance.double().cpu(), "amax")
    counted = torch.bincount(row.cpu(), minlength=rows).double()  # [B]
    return Comparison(sums, maxima, misses, nll, clean_misses, counted)


def _predicted(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The likeliest next token [c] and float32 log-probabilities [c, V] of logits [c, V]."""
    return logits.argmax(-1), logits.float().log_softmax(-1)
