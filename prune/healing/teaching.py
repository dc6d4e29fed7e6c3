"""The original runs over the documents once, and what it predicts is written down: see `targets`.

Assumptions: a shard is whole documents and is made by one process at one go, so a killed run loses at most the shards
that were being made; shards are renamed into place with a sealed note of their hash beside them, and the record of all
is written last. Processes that a launcher started take every n-th shard.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from evals.progress import stage
from evals.sealed import file_hash
from prune.analysis.processes import ALONE, Processes
from prune.data.domains import Document, Domain
from prune.errors import PruneError, UsageError
from prune.files import follow_umask, read_sealed, sha256_json, write_sealed
from prune.healing.buckets import Buckets, bucketed
from prune.healing.data import Collator, documents_within
from prune.healing.objective import counted_logits
from prune.healing.settings import TeachSettings
from prune.healing.targets import FORM, RECORD, counted_tokens, data_hash, layer_marks, shard_bounds
from prune.model.layer_list import find_layer_list

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger("prune")
SHARD_BYTES = 64 << 20
SHARD_ROWS = 1 << 18
UNFINISHED = "teaching.json"
DONE = "targets"
"""The folder inside the working directory that becomes the result."""
SHARD = "targets-{:05d}"
Teacher = Callable[[Sequence[Document]], Iterator[tuple[int, Buckets]]]
"""Documents in; out, in any order, the number of each and the distributions at its counted positions."""


@dataclass(frozen=True)
class Lesson:
    """What is taught.

    Attributes:
        documents: of all domains, one after the other, each cut to max_length, with a token to predict.
        described: per domain: `documents`, `tokens` (counted), `sha256`.
        vocabulary: tokens that the model predicts.
    """

    documents: list[Document]
    described: dict[str, dict[str, Any]]
    vocabulary: int

    @property
    def tokens(self) -> int:
        """Counted positions, which are rows of the targets."""
        return sum(d["tokens"] for d in self.described.values())


def lesson(domains: Mapping[str, Domain], settings: TeachSettings, vocabulary: int) -> Lesson:
    """The documents to teach.

    Raises:
        UsageError: a document holds a token that the model does not know, or top_k is above the vocabulary.
        PruneError: a domain has nothing to predict within max_length.
    """
    if settings.top_k > vocabulary:
        raise UsageError(f"--top_k {settings.top_k}: the model predicts {vocabulary} tokens; give fewer, or 0 for all")
    documents: list[Document] = []
    described = {}
    for name, domain in domains.items():
        within = documents_within(domain, settings.max_length)
        if not within:
            raise PruneError(
                f"--data {name}: no document has a token to predict within max_length {settings.max_length}"
            )
        largest = max(max(d.input_ids) for d in within)
        if largest >= vocabulary:
            raise UsageError(
                f"--data {name}: holds token id {largest}, the model knows 0 to {vocabulary - 1}: another "
                "tokenizer's ids?"
            )
        tokens = sum(map(counted_tokens, within))
        described[name] = {**domain.describe(), "documents": len(within), "tokens": tokens, "sha256": data_hash(within)}
        documents += within
    return Lesson(documents, described, vocabulary)


def row_bytes(settings: TeachSettings, vocabulary: int) -> int:
    """Bytes of one row: k log-probabilities and token ids, the mass of the rest and the entropy in float32."""
    number = getattr(torch, settings.targets_dtype).itemsize
    if settings.top_k in (0, vocabulary):
        return vocabulary * number + 8
    return settings.top_k * (number + _id_type(vocabulary).itemsize) + 8


def _id_type(vocabulary: int) -> torch.dtype:
    return torch.uint16 if vocabulary <= 1 << 16 else torch.int32


def taught_by(model: PreTrainedModel, settings: TeachSettings, pad_token_id: int) -> Teacher:
    """A loaded model as a teacher; documents of similar length run together."""

    @torch.no_grad()
    def teach(documents: Sequence[Document]) -> Iterator[tuple[int, Buckets]]:
        collator = Collator(pad_token_id, packing=False)
        order = sorted(range(len(documents)), key=lambda i: -len(documents[i].input_ids))
        for begin in range(0, len(order), settings.batch_size):
            batch = order[begin : begin + settings.batch_size]
            rows = collator([[documents[i]] for i in batch])
            logits = counted_logits(model, {name: tensor.to(model.device) for name, tensor in rows.items()})  # [N, V]
            counts = [counted_tokens(documents[i]) for i in batch]
            yield from zip(batch, bucketed(logits, settings.top_k).apart(counts), strict=True)

    return teach


def marks_of(model: PreTrainedModel) -> list[dict[str, str]]:
    """`layer_marks` of every layer."""
    return [layer_marks(layer) for layer in find_layer_list(model)[1]]


def write_targets(
    teach: Teacher,
    taught: Lesson,
    settings: TeachSettings,
    facts: Mapping[str, Any],
    work: Path,
    *,
    marks: Callable[[], list[dict[str, str]]],
    resume: bool = False,
    processes: Processes = ALONE,
) -> dict[str, Any]:
    """Write every shard and the record of all into `work / DONE`.

    Args:
        teach: gives the distributions.
        taught: the documents.
        settings: k, numbers on disk, length.
        facts: what else decides the result (`model_sha256` ...), and goes into the record.
        work: directory; what an earlier run left there is gone on from with `resume`.
        marks: the model's layers, as `layer_marks` knows each; asked for at the end.
        resume: see `work`.
        processes: that share the shards.

    Returns:
        The record; in the first process.

    Raises:
        UsageError: an earlier run left something and `resume` is not set.
        PruneError: what it left is of another model, data or settings, or another process is writing there.
    """
    ends = list(accumulate(map(counted_tokens, taught.documents), initial=0))
    rows = min(SHARD_ROWS, max(1, SHARD_BYTES // row_bytes(settings, taught.vocabulary)))
    bounds = shard_bounds([end - begin for begin, end in pairwise(ends)], rows)
    key = sha256_json([FORM, rows, settings.model_dump(exclude={"batch_size"}), taught.described, dict(facts)])
    processes.together(lambda: _open_work(work, key, resume) if processes.first else None)
    notes = [_note(work, number) for number in range(len(bounds))]
    done = sum(last - first for (first, last), note in zip(bounds, notes, strict=True) if note)
    with stage("teaching", len(taught.documents), "documents", done=done) as teaching:

        def make() -> None:
            for number in range(processes.rank, len(bounds), processes.count):
                if notes[number] is None:
                    first, last = bounds[number]
                    _write_shard(
                        work, number, *_shard(teach, taught.documents[first:last], settings, taught.vocabulary)
                    )
                    teaching.advance(last - first)

        processes.together(make)
    if not processes.first:
        return {}
    shards = []
    for number, (first, last) in enumerate(bounds):
        note = _note(work, number)
        assert note is not None  # written by one of the processes, or found before
        shards.append({**note, "begin": ends[first], "end": ends[last]})
    return _write_record(work, taught, settings, facts, marks(), shards)


def _open_work(work: Path, key: str, resume: bool) -> None:
    """The directory of this very work, with what an earlier run left of it."""
    (work / DONE).mkdir(parents=True, exist_ok=True)
    marker = work / UNFINISHED
    if marker.exists():
        if not resume:
            raise UsageError(f"{work} is an unfinished run: add --resume to go on with it, or remove it to start over")
        try:
            known = read_sealed(marker)["key"]
        except (ValueError, KeyError, OSError) as error:
            log.warning("%s: damaged (%s); everything is taught again", marker, error)
            known = None
            for note in work.glob("targets-*.json"):
                note.unlink()
        if known not in (None, key):
            raise PruneError(f"{work} is of another model, data or settings: restore those, or remove it")
    write_sealed(marker, {"key": key})


def _note(work: Path, number: int) -> dict[str, Any] | None:
    """What is known of a whole shard (file, hash, sums); None of one that is missing or damaged."""
    note, path = work / f"{SHARD.format(number)}.json", work / DONE / f"{SHARD.format(number)}.safetensors"
    if not note.exists():
        return None
    try:
        found = read_sealed(note)
        if file_hash(path) == found["sha256_of_file"]:
            return found
        reason = "its file is not as it was written"
    except (ValueError, KeyError, OSError) as error:
        reason = str(error)
    log.warning("%s: damaged (%s); taught again", note, reason)
    return None


def _shard(
    teach: Teacher, documents: Sequence[Document], settings: TeachSettings, vocabulary: int
) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """The tensors of one file, in the order of the documents, and sums for the record."""
    found: list[Buckets | None] = [None] * len(documents)
    sums = {"mass": 0.0, "entropy": 0.0}
    for index, buckets in teach(documents):
        sums["mass"] += float((-torch.expm1(buckets.log_rest.double())).sum())
        sums["entropy"] += float(buckets.entropy.double().sum())
        found[index] = buckets
    whole = Buckets.joined([buckets for buckets in found if buckets is not None])
    tensors = {
        "log_probs": whole.log_probs.to(getattr(torch, settings.targets_dtype)),
        "log_rest": whole.log_rest,
        "entropy": whole.entropy,
    }
    if whole.tokens is not None:
        tensors["tokens"] = whole.tokens.to(_id_type(vocabulary))
    return tensors, sums


def _write_shard(work: Path, number: int, tensors: dict[str, torch.Tensor], sums: Mapping[str, float]) -> None:
    name = f"{SHARD.format(number)}.safetensors"
    partial = work / f".{name}.partial"
    try:
        save_file(tensors, partial)
        follow_umask(partial)
        partial.replace(work / DONE / name)
    except (SafetensorError, RuntimeError, OSError) as error:  # how safetensors and torch say that the disk is full
        partial.unlink(missing_ok=True)
        raise PruneError(f"{work}: {name} cannot be written ({error}); free space there, and add --resume") from error
    path = work / DONE / name
    note = {"file": name, "sha256_of_file": file_hash(path), "bytes": path.stat().st_size, **sums}
    write_sealed(work / f"{SHARD.format(number)}.json", note)


def _write_record(
    work: Path,
    taught: Lesson,
    settings: TeachSettings,
    facts: Mapping[str, Any],
    layers: list[dict[str, str]],
    shards: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    size = sum(shard["bytes"] for shard in shards)
    record = {
        "form": FORM,
        **facts,
        "top_k": settings.top_k,
        "max_length": settings.max_length,
        "targets_dtype": settings.targets_dtype,
        "vocabulary": taught.vocabulary,
        "data": taught.described,
        "documents": len(taught.documents),
        "tokens": taught.tokens,
        "mass": sum(shard["mass"] for shard in shards) / taught.tokens,
        "entropy": sum(shard["entropy"] for shard in shards) / taught.tokens,
        "bytes": size,
        "bytes_per_token": size / taught.tokens,
        "layers": layers,
        "shards": [
            {"file": s["file"], "begin": s["begin"], "end": s["end"], "sha256": s["sha256_of_file"]} for s in shards
        ],
    }
    write_sealed(work / DONE / RECORD, record)
    return record
