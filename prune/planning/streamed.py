"""Scoring subsets of a model larger than memory: layer by layer, every weight read once for all subsets of a sweep.

All batches and all subsets that were asked for advance one layer together. Subsets with the same layers so far share a
stream; those that begin with the full model's layers have its own. Streams lie on a shelf (memory, then disk). A call
of `score_many` is one sweep, so searches that ask for many subsets at once suit it: one_shot, blocks, greedy_full.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from evals.progress import stage
from prune.analysis.streamed import GIB, Streaming
from prune.data.domains import Domain
from prune.errors import UsageError
from prune.files import sha256_json
from prune.model.heap import release_freed_memory
from prune.model.shelf import Shelf
from prune.model.streamed_walk import StreamedWalk, output_form
from prune.planning.crew import Job, Measured
from prune.planning.evaluator import Evaluator
from prune.planning.prefix import Keep
from prune.planning.score_cache import ScoreCache


class StreamedEvaluator(Evaluator):
    """An `Evaluator` of a model whose layers lie on disk; the same scores.

    Attributes:
        streaming: the model, and room for streams.
    """

    sweeps = True

    def __init__(
        self,
        streaming: Streaming,
        domains: Mapping[str, Domain],
        weights: Mapping[str, float] | None = None,
        *,
        cache: Path | ScoreCache | None = None,
        **options: Any,
    ) -> None:
        """As for `Evaluator`, whose errors these are; scores on disk are known by the checkpoint's hash.

        Raises:
            UsageError: sub-layers are asked for.
        """
        if options.get("unit", "layer") != "layer":
            raise UsageError(f"--unit {options['unit']}: not with --stream, which reads whole layers; leave out one")
        if not isinstance(cache, ScoreCache):
            model = streaming.model
            cache = ScoreCache(
                cache,
                sha256_json([model.source.sha256, str(model.dtype), model.source.attn_implementation]) if cache else "",
            )
        self.streaming = streaming
        super().__init__(streaming.model.model, domains, weights, cache=cache, **options)

    def _again(self, domains: Mapping[str, Domain], weights: Mapping[str, float], **options: Any) -> Evaluator:
        return StreamedEvaluator(self.streaming, domains, weights, **options)

    def _work_off(self, jobs: Sequence[Job]) -> None:
        """One sweep over the layers for all jobs."""
        self._check_disk(jobs)
        model, before = self.streaming.model, self.streaming.model.bytes_read
        places = list(dict.fromkeys((job.name, job.number, job.order) for job in jobs))
        batches = [self._batches(name, number)[order] for name, number, order in places]
        wanted = [
            sorted({keep for job in jobs if (job.name, job.number, job.order) == place for keep in job.keeps})
            for place in places
        ]
        with ExitStack() as stack:
            shelf = stack.enter_context(Shelf(self.streaming.memory, self.streaming.spill))
            scoring = stack.enter_context(stage("scoring layer by layer", self.num_layers, "layers"))
            carried: list[_Carried] = []
            for layer in range(self.num_layers):
                with model.layer(layer):
                    if layer == 0:
                        form = output_form(model, batches[0])
                        for number, batch in enumerate(batches):
                            walk = StreamedWalk(model, batch, shelf, number, form)
                            carried.append(_Carried(walk, shelf, number, wanted[number]))
                    for each in carried:
                        each.advance(layer)
                scoring.advance()
            for place, each in zip(places, carried, strict=True):
                layers = each.walk.layer_calls * len(each.walk.batch.index)
                for job in jobs:
                    if (job.name, job.number, job.order) == place:
                        self._store(job, self._read(job, each, layers))
                        layers = 0.0  # counted with the first
                each.forget()
        self.work.bytes_read += model.bytes_read - before
        self._cache.commit()

    def _read(self, job: Job, carried: _Carried, layers: float) -> Measured:
        walk = carried.walk
        read = {"dnll": walk.nll, "kl": walk.kl, "missed": walk.missed}[job.quantity]
        values = {keep: read(carried.final(keep)).tolist() for keep in job.keeps}
        return Measured(self._keys_of(job.name, job.number, walk.batch), values, layers)

    def _check_disk(self, jobs: Sequence[Job]) -> None:
        model = self.streaming.model
        width = model.anatomy.embedding.weight.shape[-1] * model.dtype.itemsize
        needed = -self.streaming.memory
        for job in jobs:
            tokens = self._batches(job.name, job.number)[job.order].input_ids.numel()
            needed += tokens * width * (len(job.keeps) + 2)
        free = shutil.disk_usage(self.streaming.spill).free
        if needed > free:
            raise UsageError(
                f"--stream: streams of {max(len(job.keeps) for job in jobs)} subsets need {needed / GIB:.1f} GiB of "
                f"disk in {self.streaming.spill}, {free / GIB:.1f} GiB are free: use fewer or shorter documents "
                "(--calib_num_samples, --seq_length)"
            )


class _Carried:
    """One batch on its way through the layers, with the streams of all subsets that have left the full model."""

    def __init__(self, walk: StreamedWalk, shelf: Shelf, number: int, keeps: Sequence[Keep]) -> None:
        self.walk, self.shelf, self.number = walk, shelf, number
        self.groups: dict[Keep, list[Keep]] = {(): list(keeps)}
        """What they have kept so far -> the subsets."""

    def advance(self, layer: int) -> None:
        """Run the layer, whose weights are in memory, on every stream whose subset keeps it."""
        self.walk.advance(layer)
        groups: dict[Keep, list[Keep]] = {}
        for kept, members in self.groups.items():
            staying = [keep for keep in members if layer in keep]
            leaving = [keep for keep in members if layer not in keep]
            whole = len(kept) == layer  # the full model so far: `walk` has its stream
            before = self._stream(kept, layer) if (leaving and whole) or (staying and not whole) else None
            if staying:
                groups[*kept, layer] = staying
            if before is not None and staying and not whole:
                self.shelf.put(self._key((*kept, layer)), self.walk.run(before, [layer]))
            if leaving:
                groups[kept] = leaving
            if before is not None and leaving and whole:
                self.shelf.put(self._key(kept), before.clone())
            elif not leaving:
                self.shelf.drop(self._key(kept))
        self.groups = groups
        self.shelf.drop(("stream", self.number, layer))
        self.walk.rest(forget=layer == self.walk.anatomy.num_layers - 1)

    def final(self, keep: Keep) -> torch.Tensor:
        """[B, T, d] after the last layer of a subset."""
        return self._stream(keep, self.walk.anatomy.num_layers)

    def _stream(self, kept: Keep, layer: int) -> torch.Tensor:
        if len(kept) == layer:
            return self.walk.resid_pre[layer]
        stream: torch.Tensor = self.shelf.get(self._key(kept)).to(self.walk.device_of(0))
        return stream

    def _key(self, kept: Keep) -> tuple[Any, ...]:
        return ("kept", self.number, kept)

    def forget(self) -> None:
        """Free everything of this batch."""
        for kept in self.groups:
            self.shelf.drop(self._key(kept))
        self.shelf.drop(("stream", self.number, self.walk.anatomy.num_layers))
        release_freed_memory()


def check_sweepable(criterion: str, strategy: str) -> None:
    """Refuse what would sweep over the weights for a few subsets at a time, or reads weights itself.

    Raises:
        UsageError: names what does not.
    """
    if criterion in OF_WEIGHTS:
        raise UsageError(f"--criterion {criterion}: reads the weights of a loaded model; not with --stream")
    if strategy not in SWEEPING:
        raise UsageError(
            f"--strategy {strategy}: not with --stream, whose every look reads all weights; use one of "
            f"{', '.join(SWEEPING)}"
        )


OF_WEIGHTS = ("magnitude", "taylor")
SWEEPING = ("one_shot", "greedy_full", "greedy", "contiguous", "blocks", "beam", "exhaustive")
"""Searches that ask for many subsets at once; `greedy` as `greedy_full`, since its looks are of few documents."""
