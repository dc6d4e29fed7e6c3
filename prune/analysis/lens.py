"""Logit lens: how near the final prediction the stream already is at every depth.

The final norm and head (with the model's own scale and soft-cap) are applied to the stream before every layer. The
head at every depth can cost more than the model itself, so this runs on a sample: at most `TOKENS_PER_DOCUMENT` tokens
of each document, the same ones whatever the batch, each standing for the rest of its document. Memory never holds
more than one depth of one chunk of logits.
"""

from __future__ import annotations

import numpy as np
import torch

from prune.analysis.clean_pass import CleanPass
from prune.analysis.samples import token_priority
from prune.analysis.statistics import Records
from prune.model.tracing import LOGITS_PER_CHUNK

TOKENS_PER_DOCUMENT = 32
TOP = 5


def measure(clean: CleanPass, records: Records) -> None:
    """Add `lens/kl` (KL(lens ‖ final), nats) and `lens/top5` (share of the five likeliest in common), each [L+1].

    Depth 0 is the embedding, L the final stream (0 and 1). Also the scalars `lens/sampled_share`, of the tokens looked
    at, and `lens/relative_cost`, the head's multiplications over those of one pass of all layers.
    Sources: nostalgebraist 2020; arXiv 2505.13898, fig. 6.
    """
    token = torch.from_numpy(sampled(clean)).to(clean.row.device)  # [n]
    place = clean.mask.nonzero()[token]  # [n, 2] batch row and column
    kl, top = [], []
    chunk = max(1, LOGITS_PER_CHUNK // clean.walk.vocabulary)
    for begin in range(0, len(place), chunk):
        row, column = place[begin : begin + chunk].T  # [c], [c]
        kl_part, top_part = _compare(clean, row, column)
        kl.append(kl_part)
        top.append(top_part)
    documents, weights = clean.row[token], clean.lengths
    counts = np.bincount(documents.cpu().numpy(), minlength=len(weights))  # [B] sampled tokens of each document
    for key, parts in (("lens/kl", kl), ("lens/top5", top)):
        sums = clean.by_document(torch.cat(parts), documents) * (weights / counts)[:, None]  # [B, L+1]
        records.add(key, clean.index, sums, weights)
    records.add("lens/sampled_share", clean.index, counts.astype(np.float64), weights)
    records.add("lens/relative_cost", clean.index, counts * _cost_of_a_token(clean), weights)


def _cost_of_a_token(clean: CleanPass) -> float:
    """The head at every depth against the layers, in weights multiplied (all experts of a mixture counted)."""
    anatomy = clean.walk.anatomy
    layers = sum(parameter.numel() for parameter in anatomy.layers.parameters())
    return (clean.num_layers + 1) * anatomy.head.weight.numel() / max(1, layers)


def sampled(clean: CleanPass) -> np.ndarray:
    """Places, among the batch's real tokens, of the tokens looked at: for each document those of lowest priority."""
    document, row = clean.document, clean.row.cpu().numpy()  # [N], [N]
    priority = token_priority(document, clean.position)  # [N]
    order = np.lexsort((priority, row))  # documents in order, priorities ascending within each
    ends = np.cumsum(clean.lengths).astype(np.int64)  # [B]
    rank = np.arange(len(row)) - (ends - clean.lengths.astype(np.int64))[row[order]]  # [N] within its document
    return np.sort(order[rank < TOKENS_PER_DOCUMENT])


def _compare(clean: CleanPass, row: torch.Tensor, column: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """KL and top-5 overlap of c tokens at every depth: two tensors [c, L+1]."""
    walk = clean.walk

    def log_probabilities(depth: int) -> torch.Tensor:
        stream = walk.resid_pre[depth]
        return walk.logits(stream[row.to(stream.device), column.to(stream.device)]).float().log_softmax(-1)  # [c, V]

    final = log_probabilities(clean.num_layers)  # [c, V]
    count = min(TOP, final.shape[-1])
    best = final.topk(count).indices  # [c, 5]
    kl, top = [], []
    for depth in range(clean.num_layers):
        lens = log_probabilities(depth)  # [c, V]
        kl.append((lens.exp() * (lens - final)).sum(-1))  # [c]
        common = lens.topk(count).indices[:, :, None] == best[:, None, :]  # [c, 5, 5]
        top.append(common.any(1).sum(-1) / count)  # [c]
    kl.append(torch.zeros_like(kl[0]))
    top.append(torch.ones_like(top[0]))
    return torch.stack(kl, 1), torch.stack(top, 1)
