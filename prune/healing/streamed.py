"""A teacher larger than memory: layer by layer over the documents of one file of targets at a time.

Every weight is read once a file, which holds some ten or hundred thousand tokens; streams lie on a shelf (memory, then
disk) while the layers go by.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from prune.data.domains import Document, batches
from prune.healing.buckets import Buckets, bucketed
from prune.healing.settings import TeachSettings
from prune.healing.targets import counted_tokens, layer_marks
from prune.model.shelf import Shelf
from prune.model.streamed_walk import StreamedWalk, output_form

if TYPE_CHECKING:
    from prune.analysis.streamed import Streaming
    from prune.healing.teaching import Teacher
    from prune.model.streaming import StreamedModel


def taught_by_stream(streaming: Streaming, settings: TeachSettings, pad_token_id: int) -> Teacher:
    """A model whose layers lie on disk, as a teacher; the same distributions as `teaching.taught_by`."""

    def teach(documents: Sequence[Document]) -> Iterator[tuple[int, Buckets]]:
        with Shelf(streaming.memory, streaming.spill) as shelf:
            for number, walk in enumerate(
                _walked(streaming.model, documents, settings.batch_size, pad_token_id, shelf)
            ):
                final = walk.resid_pre[-1]  # [B, T, d]
                parts = [bucketed(logits, settings.top_k) for _, _, logits in walk.target_logits(final)]
                counts = [counted_tokens(documents[i]) for i in walk.batch.index]
                yield from zip(walk.batch.index, Buckets.joined(parts).apart(counts), strict=True)
                shelf.drop(("stream", number, walk.anatomy.num_layers))

    return teach


def _walked(
    model: StreamedModel, documents: Sequence[Document], batch_size: int, pad_token_id: int, shelf: Shelf
) -> list[StreamedWalk]:
    """All batches behind the last layer; of their streams only the last is on the shelf."""
    queue = list(batches(documents, batch_size, pad_token_id))
    walks: list[StreamedWalk] = []
    for layer in range(model.anatomy.num_layers):
        with model.layer(layer):
            if layer == 0:
                form = output_form(model, queue[0])
                walks = [StreamedWalk(model, batch, shelf, number, form) for number, batch in enumerate(queue)]
            for number, walk in enumerate(walks):
                walk.advance(layer)
                shelf.drop(("stream", number, layer))
                walk.rest(forget=layer == model.anatomy.num_layers - 1)
    return walks


def streamed_marks(model: StreamedModel) -> list[dict[str, str]]:
    """`layer_marks` of every layer, each read for it."""
    marks = []
    for index in range(model.anatomy.num_layers):
        with model.layer(index) as layer:
            marks.append(layer_marks(layer))
    return marks
