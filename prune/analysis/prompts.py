"""The prompt of each document in equal parts, for measurements of what completions still depend on.

Documents differ in length, so positions are compared by which eighth of the prompt they lie in. A document without a
prompt of at least `SEGMENTS` tokens (plain text has none) takes no part and is counted in the warnings.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from prune.analysis.clean_pass import CleanPass
from prune.data.domains import Document

SEGMENTS = 8


def takes_part(document: Document, first_token: str) -> bool:
    """Whether a document has a prompt of enough tokens that may be altered, and a completion."""
    return document.answer_start - (first_token == "keep") >= SEGMENTS


@dataclass(frozen=True)
class Prompts:
    """The prompts of one batch.

    Attributes:
        rows: places in the batch of the documents that take part.
        index: their places in the domain.
        segment: [B, T] int64, the eighth of the prompt, 0 to 7; -1 elsewhere.
    """

    rows: list[int]
    index: list[int]
    segment: torch.Tensor

    def erased(self, stream: torch.Tensor) -> torch.Tensor:
        """[B, T, d]: at every prompt position the mean of the stream [B, T, d] over its document's prompt."""
        inside = (self.segment >= 0).to(stream.device)[..., None].float()  # [B, T, 1]
        mean = (stream.float() * inside).sum(1, keepdim=True) / inside.sum(1, keepdim=True).clamp(min=1)  # [B, 1, d]
        return torch.where(inside.bool(), mean.to(stream.dtype), stream)


def prompts_of(clean: CleanPass) -> Prompts:
    """Where the prompts of a batch lie; position 0 is no part of them under the first-token rule `keep`."""
    batch, keep = clean.walk.batch, clean.rules.first_token == "keep"
    inside = clean.mask & (batch.loss_mask.cumsum(1) == 0)  # [B, T]
    if keep:
        inside = inside & ~clean.first
    size = inside.sum(1, keepdim=True)  # [B, 1]
    inside = inside & (size >= SEGMENTS)
    part = (inside.cumsum(1) - 1) * SEGMENTS // size.clamp(min=1)  # [B, T]
    rows = (size[:, 0] >= SEGMENTS).nonzero()[:, 0].tolist()
    return Prompts(rows, [clean.index[row] for row in rows], torch.where(inside, part, -1))
