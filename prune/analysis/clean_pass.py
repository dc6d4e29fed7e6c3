"""One batch's clean forward pass, as the measurements see it: real tokens only, grouped by document.

Every measurement of a batch shares one `CleanPass`, so the model runs once however many are asked for. Assumptions:
a batch's streams fit in memory (they are freed with the batch, so memory does not grow with the number of documents);
padding is masked out here, once, and no measurement sees it.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import nn

from prune.analysis.layer_reader import LayerReader
from prune.data.domains import Batch
from prune.model.anatomy import Anatomy
from prune.model.sublayers import SublayerTracer
from prune.model.tracing import RecordedWalk, Walk

PARTS = ("layer", "attn", "mlp")
"""What can be left out of a layer: all that it adds, or what attention or the MLP adds."""

BLOCK_BYTES = {"cpu": 1 << 22, "cuda": 1 << 28}
"""Float64 streams of a block of tokens at all depths in a Gram matrix: on CPU they stay in the cache."""


@dataclass(frozen=True)
class Rules:
    """What measurements of a pass must know of the user's choices.

    Attributes:
        wanted: names of the measures asked for; those of one file share their work.
        first_token: `drop` intervenes at every position, `keep` never at a document's first (the paper's rule).
        swap_distances: layers l and l + k are exchanged for each k.
        cuts: positions t per document for future effects.
    """

    wanted: frozenset[str] = frozenset()
    first_token: str = "drop"
    swap_distances: tuple[int, ...] = (1,)
    cuts: int = 3


class CleanPass:
    """B documents of N real tokens in all through L layers of width d.

    Attributes:
        walk: the forward pass and its streams.
        index: position of each of the B documents in its domain.
        mask: [B, T] bool, the real tokens.
        row: [N] document of each token; tokens are in document order.
        rules: the user's choices.
        tracer: reads what attention and MLP add; None unless a measurement needs it.
        reader: what each layer adds, token by token; None likewise.
        nll_recorded: some measure has already recorded the clean likelihood of this batch.
    """

    def __init__(
        self,
        model: nn.Module,
        anatomy: Anatomy,
        batch: Batch,
        tracer: SublayerTracer | None,
        rules: Rules,
        keep_parts: bool = False,
        walk: Walk | None = None,
    ) -> None:
        """Run the model once; `keep_parts` also keeps what attention and MLP add (2 x L x [N, d] float32).

        With a `walk` the model is not run: the layers are run by the caller, with `reader` watching (streaming).
        """
        batch = batch.to(anatomy.device)
        self.mask = batch.attention_mask.bool()
        self.index = batch.index
        self.rules = rules
        self.tracer = tracer
        self.nll_recorded = False
        self.row = self.mask.nonzero()[:, 0]
        self.reader = LayerReader(self.mask, keep_parts) if tracer is not None else None
        if walk is not None:
            self.walk = walk
            return
        with contextlib.ExitStack() as stack:
            if tracer is not None and self.reader is not None:
                stack.enter_context(tracer.observing(self.reader, self.mask))
            self.walk = RecordedWalk(model, anatomy, batch)

    @property
    def num_layers(self) -> int:
        return self.walk.anatomy.num_layers

    @cached_property
    def lengths(self) -> np.ndarray:
        """[B] float64: real tokens of each document."""
        return self.mask.sum(1).cpu().numpy().astype(np.float64)

    @cached_property
    def first(self) -> torch.Tensor:
        """[B, T] bool: each document's first token."""
        return self.mask.cumsum(1).eq(1) & self.mask

    @cached_property
    def document(self) -> np.ndarray:
        """[N] place of each token's document in its domain."""
        return np.asarray(self.index)[self.row.cpu().numpy()]

    @cached_property
    def position(self) -> np.ndarray:
        """[N] place of each token in its document, padding not counted."""
        return (self.mask.cumsum(1) - 1)[self.mask].cpu().numpy()

    @cached_property
    def last(self) -> torch.Tensor:
        """[B] the place of each document's last token among the N tokens."""
        return self.mask.sum(1).cumsum(0) - 1

    @cached_property
    def gram(self) -> torch.Tensor:
        """[N, L+1, L+1] float64: inner products of each token's streams before every layer and after the last.

        Float64, because an angle near 0 is the square root of a rounding error of its cosine.
        """
        streams = [self.tokens(stream) for stream in self.walk.resid_pre]  # (L+1) x [N, d]
        depths, (tokens, width), device = len(streams), streams[0].shape, streams[-1].device
        size = min(tokens, max(1, BLOCK_BYTES.get(device.type, BLOCK_BYTES["cuda"]) // (8 * depths * width)))
        block = torch.empty(size, depths, width, dtype=torch.float64, device=device)
        gram = torch.empty(tokens, depths, depths, dtype=torch.float64, device=device)  # [N, L+1, L+1]
        for begin in range(0, tokens, size):
            end = min(begin + size, tokens)
            part = block[: end - begin]  # [n, L+1, d]
            for depth, stream in enumerate(streams):
                part[:, depth] = stream[begin:end]
            torch.bmm(part, part.transpose(1, 2), out=gram[begin:end])
        return gram

    def tokens(self, stream: torch.Tensor) -> torch.Tensor:
        """[N, d] real tokens of a stream [B, T, d], where it lies; without padding a view of it."""
        return stream.flatten(0, 1) if len(self.row) == self.mask.numel() else stream[self.mask.to(stream.device)]

    def by_document(self, values: torch.Tensor, row: torch.Tensor | None = None) -> np.ndarray:
        """Sums over each document's tokens, float64.

        A product with a 0/1 matrix: unlike a scattered sum it gives the same bits on every device run.

        Args:
            values: [n, *shape], one entry a token.
            row: [n] the tokens' documents; all real tokens if None.

        Returns:
            [B, *shape].
        """
        row = (self.row if row is None else row).to(values.device)
        member = row[None, :] == torch.arange(len(self.index), device=values.device)[:, None]  # [B, n]
        sums = member.double() @ values.reshape(len(row), -1).double()  # [B, prod(shape)]
        return sums.reshape(len(self.index), *values.shape[1:]).cpu().numpy()
