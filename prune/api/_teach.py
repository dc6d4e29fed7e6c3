"""`prune.teach`: the original's predictions on the training data, so that `prune.heal` needs no original."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from prune.analysis.settings import StreamSettings
from prune.api._given import Given, Model, NoTokenizer, at_rest, given
from prune.api._inputs import Data, DryRun, check_files, load_domains
from prune.api._streaming import check_streamable, streaming_of
from prune.errors import UsageError
from prune.files import refuse_non_empty
from prune.healing.settings import SpeakerSettings, TeachSettings
from prune.model.settings import PlacedSettings
from prune.settings import DATA, Seeded, fields_of, takes, validated

if TYPE_CHECKING:
    from prune.analysis.processes import Processes
    from prune.healing.teaching import Lesson, Teacher
    from prune.model.streaming import StreamedModel


class TeachArguments(PlacedSettings, StreamSettings, SpeakerSettings, Seeded, TeachSettings):
    """Everything that `prune teach` can be told beside the model, the data and the output."""

    seq_length: int | None = Field(
        None,
        ge=2,
        description="Longer documents are cut on the right, in tokens; max_length if not given.",
        json_schema_extra=DATA,
    )


@takes(TeachArguments)
def teach(
    model: Model,
    output: str | Path,
    *,
    data: Data,
    tokenizer: Any = None,
    resume: bool = False,
    dry_run: bool = False,
    **settings: Any,
) -> dict[str, Any]:
    """Write down what a model predicts at every counted token of some documents: its most likely tokens and the rest.

        prune.teach("org/model", "targets", data={"math": "math.jsonl"}, top_k=64)

    `prune.heal(small, "healed", targets="targets", data={"math": "math.jsonl"})` then distils from them, with the
    original nowhere in memory. Started by `torchrun` or `accelerate launch`, the processes share the files.

    Args:
        model: the original; directory, hub id, `embedded`, or a loaded model, which stays as it is.
        output: new directory: safetensors files and `targets.json`.
        data: the training documents of the healing to come, by domain, as for `prune.heal`.
        tokenizer: of a loaded model, where the data are not token ids; the checkpoint's own if None.
        resume: go on with what a killed run left.
        dry_run: check the input and return what would be written.

    Returns:
        The record: model, data and their hashes, `tokens`, `bytes_per_token`, `mass` (of the kept tokens, 0 to 1, mean
        over positions), `entropy` (nats), `bytes_read` of the weights where they were streamed ...

    Raises:
        UsageError, PruneError: bad input; the output does not exist then.
    """
    target = Path(output)
    refuse_non_empty(target)
    asked = validated(TeachArguments, settings)
    chosen = TeachSettings(**fields_of(TeachSettings, asked))
    subject = given(model, tokenizer, **fields_of(PlacedSettings, asked))
    _check_way(subject, asked)
    files = check_files(data)
    domains = load_domains(files, subject.tokenizer, asked.seq_length or chosen.max_length, None, asked.seed)
    from prune.analysis.processes import join
    from prune.healing.teaching import lesson, row_bytes

    taught = lesson(domains, chosen, _vocabulary(subject))
    if dry_run:
        size = row_bytes(chosen, taught.vocabulary)
        facts = {"tokens": taught.tokens, "bytes_per_token": size, "bytes": size * taught.tokens}
        return DryRun(model=subject.label, settings=chosen.model_dump(), data=taught.described, **facts)
    processes = join()
    record = _taught(subject, taught, chosen, asked, target, resume, processes)
    processes.leave()
    return record


def _check_way(subject: Given, asked: TeachArguments) -> None:
    """Refuse ways that exclude each other, before anything is read.

    Raises:
        UsageError: names the flags.
    """
    if asked.stream:
        check_streamable(subject)
    if asked.backend == "hf":
        return
    from evals.backend import check_backend

    check_backend(asked.backend)
    for name in ("stream", "device_map", "attn_implementation"):
        if getattr(asked, name):
            raise UsageError(f"--{name}: is of an original in this process; leave it out, or --backend")
    if subject.source is None:
        raise UsageError(f"--backend {asked.backend}: reads checkpoints; give a directory or hub id")
    if asked.top_k == 0:
        raise UsageError(f"--top_k 0: --backend {asked.backend} tells likely tokens only; give how many, e.g. 64")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError(
            f"--backend {asked.backend}: spreads itself over GPUs (--model_args tensor_parallel_size=N); start it "
            "without torchrun"
        )


def _vocabulary(subject: Given) -> int:
    """Tokens that the model predicts; from its configuration where it is not loaded."""
    if subject.in_memory is not None:
        return len(subject.in_memory.get_output_embeddings().weight)
    from transformers import AutoModelForCausalLM

    from prune.model.loading import load_config
    from prune.surgery.signature import skeleton

    source = subject.source
    assert source is not None
    bones = skeleton(AutoModelForCausalLM, load_config(source), source.trust_remote_code)
    return len(bones.get_output_embeddings().weight)


def _taught(
    subject: Given,
    taught: Lesson,
    settings: TeachSettings,
    asked: TeachArguments,
    target: Path,
    resume: bool,
    processes: Processes,
) -> dict[str, Any]:
    from evals.fingerprint import fingerprint
    from prune.files import sync_directory
    from prune.healing.targets import vocabulary_hash
    from prune.healing.teaching import DONE, write_targets
    from prune.planning.score_cache import model_fingerprint
    from prune.versions import library_versions

    began = time.monotonic()
    with ExitStack() as stack:
        desk = _desk(subject, settings, asked, target, processes, stack)
        plain = isinstance(subject.tokenizer, NoTokenizer)
        if subject.source is not None:
            known = subject.source.sha256
        else:
            known = model_fingerprint(desk.model) if plain else fingerprint(desk.model, subject.tokenizer)
        facts = {
            "model": subject.source.label if subject.source else Path(subject.label).name,
            "revision": subject.source.revision if subject.source else None,
            "model_sha256": known,
            "tokenizer_sha256": None if plain else vocabulary_hash(subject.tokenizer),
            "dtype": str(desk.model.dtype).removeprefix("torch."),
            "versions": library_versions(),
            **desk.facts,
        }
        work = target.with_name(f".{target.name}.teaching")
        stack.enter_context(at_rest(subject.in_memory))
        record = write_targets(
            desk.teach, taught, settings, facts, work, marks=desk.marks, resume=resume, processes=processes
        )
    subject.require_unchanged()
    if processes.first:
        if target.is_dir():
            target.rmdir()
        (work / DONE).rename(target)
        sync_directory(target.parent)
        shutil.rmtree(work)
        record["seconds"] = round(time.monotonic() - began, 2)
        if desk.streamed is not None:
            record["bytes_read"] = desk.streamed.bytes_read
    return record


@dataclass(frozen=True)
class Desk:
    """The original where it teaches: in memory, over several devices, layer by layer from disk, or elsewhere.

    Attributes:
        model: the transformers model, or what stands for it.
        teach: gives its distributions.
        marks: by which its layers are known again.
        streamed: its files, where its layers are not in memory.
        facts: more for the record.
    """

    model: Any
    teach: Teacher
    marks: Callable[[], list[dict[str, str]]]
    streamed: StreamedModel | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def _desk(
    subject: Given,
    settings: TeachSettings,
    asked: TeachArguments,
    target: Path,
    processes: Processes,
    stack: ExitStack,
) -> Desk:
    """The original, ready to be asked until the stack ends.

    Raises:
        UsageError: it cannot be streamed or placed in this way.
    """
    from prune.healing.streamed import streamed_marks, taught_by_stream
    from prune.healing.teaching import marks_of, taught_by
    from prune.model.streaming import StreamedModel

    pad, source = subject.pad_token_id, subject.source
    if asked.backend != "hf" and source is not None:
        from prune.healing.served import served

        options = {"top_k": settings.top_k, **asked.model_args}
        speaker = stack.enter_context(served(source, asked.backend, asked.dtype, options, settings.batch_size))
        facts = {"answered_by": speaker.runtime}
        return Desk(speaker, speaker.teacher(settings), lambda: streamed_marks(StreamedModel(source)), facts=facts)
    if asked.stream and source is not None:
        streaming = streaming_of(source, target, asked.stream_memory, processes)
        files = streaming.model
        return Desk(files.model, taught_by_stream(streaming, settings, pad), lambda: streamed_marks(files), files)
    if source is None or source.placement is None:
        loaded = processes.together(lambda: subject.model(processes.device))
        return Desk(loaded, taught_by(loaded, settings, pad), lambda: marks_of(loaded))
    if processes.count > 1:
        raise UsageError(
            "--device_map spreads the original over the devices of one process: start it without torchrun, or without "
            "--device_map"
        )
    spread = subject.model()  # layers on disk have no numbers in memory to be known by
    return Desk(spread, taught_by(spread, settings, pad), lambda: streamed_marks(StreamedModel(source)))
