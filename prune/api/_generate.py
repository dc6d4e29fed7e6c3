"""`prune.generate`: the original model's own answers, as training data for `prune.heal`."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.api._given import Given, Model, at_rest, given
from prune.api._inputs import Data, DryRun, check_files
from prune.data.rows import Documents, origin
from prune.errors import UsageError
from prune.files import sha256_json, write_exact, write_json
from prune.healing.settings import GenerateSettings, SpeakerSettings
from prune.model.settings import PlacedSettings
from prune.settings import fields_of, takes, validated

if TYPE_CHECKING:
    from prune.healing.prompts import Prompt


class GenerateArguments(PlacedSettings, SpeakerSettings, GenerateSettings):
    """Everything that `prune generate` can be told beside the model, the prompts and the output."""


@takes(GenerateArguments)
def generate(
    model: Model,
    output: str | Path | None = None,
    *,
    data: Data,
    tokenizer: Any = None,
    resume: bool = False,
    progress: Callable[[int, int], None] | None = None,
    dry_run: bool = False,
    **settings: Any,
) -> Generated | DryRun:
    """Prompts in, the model's own answers out: one `.jsonl` file that `prune heal --data NAME=FILE` reads.

    Beside the file stands `<file>.provenance.json`: model and prompt hashes, settings, versions, counts.

        answers = prune.generate(model, data={"math": [{"prompt": "1 + 1 ="}]}, tokenizer=tokenizer)
        healed = prune.heal(small, teacher=model, data={"own": answers.rows}, tokenizer=tokenizer)

    Args:
        model: the original; directory, hub id, `embedded`, or a loaded model, which stays as it is.
        output: new `.jsonl` file; nothing is written if None.
        data: prompts by domain; rows with `prompt`, `messages`, `text`, or `input_ids` + `answer_start`.
        tokenizer: of a loaded model; the checkpoint's own if None.
        resume: go on with what a killed run left.
        progress: called with answers done and answers in all.
        dry_run: check the input and return what would be done.

    Returns:
        The provenance, with the answers as `rows`.

    Raises:
        UsageError, PruneError: bad input; the output does not exist then.
    """
    target = None if output is None else Path(output)
    if target is None and resume:
        raise UsageError("resume: goes with output; in memory nothing is left to go on with")
    if target is not None and target.suffix != ".jsonl":
        raise UsageError(f"{target}: give -o a file that ends in .jsonl")
    if target is not None and target.exists():
        raise UsageError(f"{target} exists: give -o a new file, or remove it first")
    asked = validated(GenerateArguments, settings)
    chosen = GenerateSettings(**fields_of(GenerateSettings, asked))
    files = check_files(data)
    subject = given(model, tokenizer, **fields_of(PlacedSettings, asked))
    _check_backend(subject, asked)
    prompts, described = _read(files, subject.require_tokenizer(), chosen, _context(subject))
    dtype = asked.dtype if subject.in_memory is None else str(subject.in_memory.dtype).removeprefix("torch.")
    facts: dict[str, Any] = {"model": subject.label, "revision": subject.source and subject.source.revision}
    if subject.source:
        facts["model"] = subject.source.label
    facts |= {"dtype": dtype, "settings": chosen.model_dump(), "data": described}
    if dry_run:
        return DryRun(facts)
    began = time.monotonic()
    if target is None:
        with tempfile.TemporaryDirectory(prefix="prune-generate-") as hidden:
            return _answer(subject, prompts, asked, facts, Path(hidden) / "batches", False, progress, began)
    from prune.healing.generate import remove_partial

    partial = target.with_name(f".{target.name}.batches")
    found = _answer(subject, prompts, asked, facts, partial, resume, progress, began)
    write_json(target.with_name(f"{target.name}.provenance.json"), found)
    write_exact(target, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found.rows))
    remove_partial(partial)
    return found


class Generated(dict[str, Any]):
    """The provenance of answers.

    Attributes:
        rows: the answers, as `prune.heal` takes them: `prompt`, `completion`, `input_ids`, `answer_start` ...
    """

    def __init__(self, facts: Mapping[str, Any], rows: list[dict[str, Any]]) -> None:
        super().__init__(facts)
        self.rows = rows


def _context(subject: Given) -> int | None:
    """Positions that the model knows, in tokens."""
    from prune.model.loading import load_config

    config = load_config(subject.source) if subject.source else subject.model().config
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def _check_backend(subject: Given, asked: GenerateArguments) -> None:
    """What another runtime cannot do, before anything is loaded.

    Raises:
        UsageError: names the flag.
    """
    if asked.backend == "hf":
        return
    from evals.backend import check_backend

    check_backend(asked.backend)
    if subject.source is None:
        raise UsageError(f"--backend {asked.backend}: reads checkpoints; give a directory or hub id")
    if asked.do_sample:
        raise UsageError(f"--do_sample: --backend {asked.backend} answers greedily; leave one of them out")
    for name in ("device_map", "attn_implementation"):
        if getattr(asked, name) is not None:
            raise UsageError(f"--{name}: is of models in this process; --backend {asked.backend} has --model_args")


@contextmanager
def _speaker(subject: Given, asked: GenerateArguments, facts: dict[str, Any]) -> Iterator[Any]:
    """Who answers: the model in this process, or another runtime's with the same face."""
    if asked.backend == "hf":
        loaded = subject.model()
        facts["dtype"] = str(loaded.dtype).removeprefix("torch.")  # what auto came to
        with at_rest(subject.in_memory):
            yield loaded
        return
    from prune.healing.served import served

    assert subject.source is not None
    with served(subject.source, asked.backend, asked.dtype, asked.model_args, asked.batch_size) as model:
        facts |= {"dtype": model.dtype, "answered_by": model.runtime}
        yield model


def _answer(
    subject: Given,
    prompts: Sequence[Prompt],
    asked: GenerateArguments,
    facts: dict[str, Any],
    partial: Path,
    resume: bool,
    progress: Callable[[int, int], None] | None,
    began: float,
) -> Generated:
    from evals.fingerprint import fingerprint
    from prune.healing.generate import generate_answers
    from prune.versions import library_versions

    with _speaker(subject, asked, facts) as speaker:
        facts["model_sha256"] = subject.source.sha256 if subject.source else None
        answers = generate_answers(
            speaker,
            subject.tokenizer,
            prompts,
            GenerateSettings(**fields_of(GenerateSettings, asked)),
            pad_token_id=subject.pad_token_id,
            partial=partial,
            identity={
                "model": facts["model_sha256"] or fingerprint(speaker, subject.tokenizer),
                "dtype": facts["dtype"],
                **({"answered_by": facts["answered_by"]} if "answered_by" in facts else {}),
            },
            resume=resume,
            progress=progress,
        )
    facts |= {
        "answers": len(answers.rows),
        "cut_short": answers.cut_short,
        "new_tokens": answers.new_tokens,
        "resumed": answers.resumed,
        "seconds": round(time.monotonic() - began, 2),
        "answers_sha256": sha256_json([row["input_ids"] for row in answers.rows]),
        "versions": library_versions(),
    }
    return Generated(facts, answers.rows)


def _read(
    files: Mapping[str, Documents], tokenizer: Any, settings: GenerateSettings, context: int | None
) -> tuple[list[Prompt], dict[str, dict[str, Any]]]:
    """The prompts of all domains, and what the provenance says about each domain."""
    from prune.healing.prompts import read_prompts

    prompts: list[Prompt] = []
    described = {}
    for name, source in files.items():
        read, excluded = read_prompts(name, source, tokenizer, settings, context)
        prompts += read
        described[name] = {
            "source": origin(source),
            "sha256": sha256_json([p.input_ids for p in read]),
            "prompts": len(read),
            "excluded": excluded,
        }
    return prompts, described
