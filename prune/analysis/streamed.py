"""The analysis of a model larger than memory: layer by layer, every weight read once for all documents.

All batches advance one layer together. The streams at every depth and what each layer adds are kept on a shelf (memory,
then disk), and the measurements of the clean pass then run on each batch as they would have without streaming. The
removal of single layers is carried along as further streams, one a removed layer. Other interventions restart from
the middle of the stack many times and would read the weights as often: they are refused.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from evals.progress import stage
from prune.analysis.clean_pass import CleanPass, Rules
from prune.analysis.interventions import Alteration, at_once, removals
from prune.analysis.outputs import record_outputs
from prune.analysis.registry import STREAMED, Measure, modules
from prune.analysis.statistics import Records
from prune.data.domains import Batch
from prune.errors import UsageError
from prune.model.heap import release_freed_memory
from prune.model.shelf import Shelf, ShelvedTensors
from prune.model.streamed_walk import StreamedWalk, output_form
from prune.model.streaming import StreamedModel
from prune.model.sublayers import SublayerTracer

REMOVAL = "dnll"
GIB = 1 << 30
FIGURES = 28  # bytes a token and layer: what a `LayerReader` notes beside the contribution itself


@dataclass(frozen=True)
class Streaming:
    """How to stream.

    Attributes:
        model: the model, its layers on disk.
        memory: bytes of activations to hold in memory.
        spill: existing directory for those beyond it.
    """

    model: StreamedModel
    memory: int
    spill: Path


def check_offered(names: Iterable[str]) -> None:
    """Refuse measures that would have to read the weights again and again.

    Raises:
        UsageError: naming them.
    """
    if refused := [name for name in names if name not in STREAMED]:
        raise UsageError(
            f"measure {','.join(refused)}: not with stream, which reads every layer once; it offers "
            f"{', '.join(STREAMED)}"
        )


def collect_streamed(
    streaming: Streaming,
    tracer: SublayerTracer,
    queue: Sequence[tuple[str, Batch]],
    chosen: Mapping[str, Measure],
    rules: Rules,
    records: Mapping[str, Records],
) -> None:
    """Add every batch of the queue (domain, batch) to its domain's records.

    Raises:
        UsageError: a measure that streaming does not offer, or too little disk for the activations.
        PruneError: the model cannot be walked layer by layer.
    """
    check_offered(chosen)
    _check_disk(streaming, queue, chosen)
    needed = tracer if any(measure.sublayers for measure in chosen.values()) else None
    clean_measures = modules({name: measure for name, measure in chosen.items() if name != REMOVAL})
    depth = tracer.anatomy.num_layers
    with ExitStack() as stack:
        shelf = stack.enter_context(Shelf(streaming.memory, streaming.spill))
        carried: list[_Carried] = []
        measuring = stack.enter_context(stage("measuring", depth, "layers"))
        for layer in range(depth):
            with streaming.model.layer(layer):
                if layer == 0:
                    form = output_form(streaming.model, queue[0][1])
                    for number, (_, batch) in enumerate(queue):
                        walk = StreamedWalk(streaming.model, batch, shelf, number, form)
                        carried.append(_Carried(walk, shelf, number, needed, rules))
                for each in carried:
                    each.advance(layer, removing=REMOVAL in chosen, keep=bool(clean_measures))
            measuring.advance()
        for (name, _), each in zip(queue, carried, strict=True):
            clean = each.finished()
            for module in clean_measures:
                module.measure(clean, records[name])
            if REMOVAL in chosen:
                record_outputs(clean, records[name], "output_effect", each.removed(), answers=True)
            del clean
            each.forget()


class _Carried:
    """One batch on its way through the layers, with the L streams that each lack one layer."""

    def __init__(
        self, walk: StreamedWalk, shelf: Shelf, number: int, tracer: SublayerTracer | None, rules: Rules
    ) -> None:
        self.walk, self.shelf, self.number, self.tracer = walk, shelf, number, tracer
        self.clean = CleanPass(walk.model, walk.anatomy, walk.batch, tracer, rules, walk=walk)
        self.depth = walk.anatomy.num_layers
        self.together = at_once(self.clean)
        self.removals: list[Alteration] = removals(self.clean, "layer") or []

    def advance(self, layer: int, *, removing: bool, keep: bool) -> None:
        """Run the layer, whose weights are in memory, on the clean stream and on those that lack an earlier one.

        Args:
            removing: carry the streams that lack a layer.
            keep: streams at all depths will be wanted, not only the last.
        """
        reader = self.clean.reader
        if self.tracer is None or reader is None:
            self.walk.advance(layer)
        else:
            with self.tracer.observing(reader, self.clean.mask, layers=[layer]):
                self.walk.advance(layer)
            self.shelf.put(("added", self.number, layer), reader.added.pop())
            self.shelf.put(("read", self.number, layer), reader.take())
        if removing:
            self._advance_removed(layer)
        if not keep:
            self.shelf.drop(("stream", self.number, layer))
        self.walk.rest(forget=layer == self.depth - 1)

    def _advance_removed(self, layer: int) -> None:
        for begin in range(0, layer, self.together):
            numbers = range(begin, min(begin + self.together, layer))
            hidden = torch.cat([self._removed(number) for number in numbers])  # [K·B, T, d]
            hidden = self.walk.run(hidden, [layer])
            for number, stream in zip(numbers, hidden.unflatten(0, (len(numbers), -1)), strict=True):
                self.shelf.put(("removed", self.number, number), stream.clone())
        self.shelf.put(("removed", self.number, layer), self.removals[layer].make())

    def _removed(self, number: int) -> torch.Tensor:
        stream: torch.Tensor = self.shelf.get(("removed", self.number, number)).to(self.walk.device_of(0))
        return stream

    def finished(self) -> CleanPass:
        """The pass as the measurements expect it; its streams are loaded from the shelf when they are asked for."""
        if self.clean.reader is not None:
            for layer in range(self.depth):
                self.clean.reader.give(self.shelf.get(("read", self.number, layer)))
            keys = [("added", self.number, layer) for layer in range(self.depth)]
            added = ShelvedTensors(self.shelf, keys, self.walk.device_of(0))
            self.clean.reader.added = added  # type: ignore[assignment]
        return self.clean

    def removed(self) -> ShelvedTensors:
        """L streams [B, T, d] after the last layer, the s-th without layer s."""
        keys = [("removed", self.number, layer) for layer in range(self.depth)]
        return ShelvedTensors(self.shelf, keys, self.walk.device_of(0))

    def forget(self) -> None:
        """Free everything of this batch."""
        for layer in range(self.depth + 1):
            for kind in ("stream", "added", "read", "removed"):
                self.shelf.drop((kind, self.number, layer))
        del self.clean
        release_freed_memory()


def activation_bytes(tokens: int, width: int, depth: int, item: int, chosen: Iterable[str]) -> int:
    """Bytes of activations that a streamed analysis keeps, for so many tokens with padding.

    Args:
        item: bytes of one element of the stream.
    """
    streams = (depth + 1 if set(chosen) - {REMOVAL} else 2) + (depth if REMOVAL in chosen else 0)
    added = depth if {"contributions", "width"} & set(chosen) else 0
    return tokens * (width * (streams * item + added * 4) + added * FIGURES)


def _check_disk(streaming: Streaming, queue: Sequence[tuple[str, Batch]], chosen: Mapping[str, Measure]) -> None:
    tokens = sum(batch.input_ids.numel() for _, batch in queue)
    anatomy, item = streaming.model.anatomy, streaming.model.dtype.itemsize
    width = anatomy.embedding.weight.shape[-1]
    needed = activation_bytes(tokens, width, anatomy.num_layers, item, chosen) - streaming.memory
    free = shutil.disk_usage(streaming.spill).free
    if needed > free:
        raise UsageError(
            f"stream: activations need {needed / GIB:.1f} GiB of disk in {streaming.spill}, {free / GIB:.1f} GiB are "
            "free: use fewer or shorter documents (calib_num_samples, seq_length) or fewer measures (measure)"
        )
