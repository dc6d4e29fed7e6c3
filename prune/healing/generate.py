"""The original model's own answers to prompts, as training documents (self-generated data; 2410.09982, 2602.01997).

Assumptions: batches are left-padded, of prompts of similar length, in an order fixed by the prompts alone; the seed of
a batch depends on its number only. So a killed run goes on at the first batch that is missing and gives the same
answers. The model's own sampling defaults are not used: the settings say everything.

An answer is kept as the token ids that were generated (`input_ids`, `answer_start`), because text that is tokenised
again may give other ids; `prompt` and `completion` are the same for people to read.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from evals.progress import stage
from evals.sealed import sealed, unsealed
from prune.errors import PruneError, UsageError
from prune.files import read_sealed, sha256_json, write_sealed
from prune.healing.prompts import Prompt
from prune.healing.settings import GenerateSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel


log = logging.getLogger("prune")


@dataclass(frozen=True)
class Answers:
    """Rows of answers in prompt order, ready for JSON lines, and what came of them.

    Attributes:
        rows: `domain`, `prompt`, `completion`, `input_ids`, `answer_start`, `finished`, `row`, and `difficulty`.
        cut_short: answers that reached max_new_tokens without an end of text.
        new_tokens: tokens generated in all answers, ends of text included.
        resumed: answers that an earlier run had left.
    """

    rows: list[dict[str, Any]]
    cut_short: int
    new_tokens: int
    resumed: int


def end_tokens(model: PreTrainedModel, tokenizer: Any) -> list[int]:
    """Ids that end an answer: those of the model's generation config, else the tokenizer's end of text."""
    ids = model.generation_config.eos_token_id if model.generation_config is not None else None
    ids = tokenizer.eos_token_id if ids is None else ids
    return [] if ids is None else [ids] if isinstance(ids, int) else list(ids)


def generate_answers(
    model: PreTrainedModel,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    settings: GenerateSettings,
    *,
    pad_token_id: int,
    partial: Path,
    identity: Mapping[str, Any],
    resume: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Answers:
    """Answer every prompt.

    Args:
        model: in eval mode, on its device.
        tokenizer: the model's, for the readable text and the end of text.
        prompts: from `read_prompts`.
        settings: sampling, batch size, seed.
        pad_token_id: fills short prompts on the left; masked.
        partial: file that receives each finished batch; removed by the caller once the result is safe.
        identity: what decides the answers besides prompts and settings (the model's hash).
        resume: go on with the batches in `partial`.
        progress: called with answers done and answers in all.

    Raises:
        UsageError: `partial` exists and `resume` is not set, or a prompt holds a token id that the model lacks.
        PruneError: `partial` is of other prompts, settings or another model; or nothing remains of the answers.
    """
    _check_ids(model, prompts)
    copies = [(i, prompt) for i, prompt in enumerate(prompts) for _ in range(settings.num_return_sequences)]
    order = sorted(range(len(copies)), key=lambda i: (-len(copies[i][1].input_ids), i))
    batches = [order[b : b + settings.batch_size] for b in range(0, len(order), settings.batch_size)]
    key = sha256_json([[(p.domain, p.row, p.input_ids) for p in prompts], settings.model_dump(), dict(identity)])
    done = _finished_batches(partial, key, batches, resume)
    found = {index: row for batch in done for index, row in batch}
    resumed, ends = len(found), [] if settings.ignore_eos else end_tokens(model, tokenizer)
    with (
        partial.open("a", encoding="utf8") as handle,
        _explicit_settings(model, settings, ends, pad_token_id),
        stage("generating", len(copies), "answers", done=resumed) as generating,
    ):
        for number in range(len(done), len(batches)):
            members = [copies[i][1] for i in batches[number]]
            generating.item = members[0].domain
            answers = _answer(model, members, settings, ends, pad_token_id, number)
            rows = [_row(p, a, ends, tokenizer) for p, a in zip(members, answers, strict=True)]
            batch = list(zip(batches[number], rows, strict=True))
            handle.write(sealed({"batch": batch}) + "\n")
            handle.flush()
            found.update(batch)
            generating.at(len(found))
            if progress is not None:
                progress(len(found), len(copies))
    every = [found[i] for i in range(len(copies))]
    kept = [row for row in every if row["finished"] or not settings.finished_only]
    if not kept:
        remove_partial(partial)
        raise PruneError(f"no answer ended within max_new_tokens {settings.max_new_tokens}: raise it")
    new_tokens = sum(len(row["input_ids"]) - row["answer_start"] for row in every)
    return Answers(kept, sum(not row["finished"] for row in every), new_tokens, resumed)


def _check_ids(model: PreTrainedModel, prompts: Sequence[Prompt]) -> None:
    known = model.get_input_embeddings().num_embeddings  # type: ignore[operator]
    for prompt in prompts:
        if (largest := max(prompt.input_ids)) >= known:
            raise UsageError(
                f"--data {prompt.domain}: row {prompt.row + 1} holds token id {largest}, the model knows 0 to "
                f"{known - 1}: another tokenizer's ids?"
            )


def remove_partial(partial: Path) -> None:
    """Remove what `generate_answers` kept for a resumed run."""
    partial.unlink(missing_ok=True)
    partial.with_name(f"{partial.name}.json").unlink(missing_ok=True)


def _finished_batches(partial: Path, key: str, batches: list[list[int]], resume: bool) -> list[list[tuple[int, Any]]]:
    """The batches that an earlier run left whole, in order; the file is cut after them."""
    marker = partial.with_name(f"{partial.name}.json")
    if partial.exists() and not resume:
        raise UsageError(f"{partial} is an unfinished run: add --resume to go on with it, or remove it to start over")
    partial.parent.mkdir(parents=True, exist_ok=True)
    known = _read_key(marker) if partial.exists() else None
    if known is None:
        partial.unlink(missing_ok=True)
        write_sealed(marker, {"key": key})
        partial.touch()
        return []
    if known != key:
        raise PruneError(f"{partial} is of other prompts, settings or another model: restore those, or remove it")
    done: list[list[tuple[int, Any]]] = []
    size = 0
    for line, members in zip(partial.read_bytes().splitlines(keepends=True), batches, strict=False):
        batch = _read_batch(line)
        if [index for index, _ in batch] != members:
            if line.endswith(b"\n"):  # else the line that was being written when the run was killed
                log.warning("%s: damaged at batch %d; answered again from there on", partial, len(done) + 1)
            break
        done.append(batch)
        size += len(line)
    with partial.open("r+b") as handle:
        handle.truncate(size)
    return done


def _read_key(marker: Path) -> str | None:
    """Hash of what the batches beside it belong to; None where that can no longer be told."""
    try:
        return str(read_sealed(marker)["key"])
    except (ValueError, KeyError, OSError) as error:
        log.warning("%s: damaged (%s); every prompt is answered again", marker, error)
        return None


def _read_batch(line: bytes) -> list[tuple[int, Any]]:
    """Number and row of every answer of a finished batch; none of a damaged one."""
    if not line.endswith(b"\n"):
        return []
    try:
        return [(int(index), row) for index, row in unsealed(line)["batch"]]
    except (ValueError, KeyError):
        return []


@contextlib.contextmanager
def _explicit_settings(
    model: PreTrainedModel, settings: GenerateSettings, ends: Sequence[int], pad_token_id: int
) -> Iterator[None]:
    """The settings in place of the model's own generation config, which `generate` would mix in."""
    from transformers import GenerationConfig

    sampling = (
        {"do_sample": True, "temperature": settings.temperature, "top_p": settings.top_p, "top_k": settings.top_k}
        if settings.do_sample
        else {"do_sample": False}
    )
    before = model.generation_config
    model.generation_config = GenerationConfig(
        max_new_tokens=settings.max_new_tokens, eos_token_id=list(ends) or None, pad_token_id=pad_token_id, **sampling
    )
    try:
        yield
    finally:
        model.generation_config = before


def _answer(
    model: PreTrainedModel,
    prompts: Sequence[Prompt],
    settings: GenerateSettings,
    ends: Sequence[int],
    pad_token_id: int,
    number: int,
) -> list[list[int]]:
    """New token ids of each prompt of a batch, up to and with the first end of text."""
    length = max(len(p.input_ids) for p in prompts)
    input_ids = torch.full((len(prompts), length), pad_token_id)  # [B, T]
    attention_mask = torch.zeros_like(input_ids)  # [B, T]
    for i, prompt in enumerate(prompts):
        input_ids[i, length - len(prompt.input_ids) :] = torch.tensor(prompt.input_ids)
        attention_mask[i, length - len(prompt.input_ids) :] = 1
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(settings.seed * 1_000_003 + number)
        output = model.generate(  # type: ignore[operator]
            input_ids=input_ids.to(model.device), attention_mask=attention_mask.to(model.device)
        )
    return [_until_end(row[length:].tolist(), ends) for row in output]


def _until_end(ids: list[int], ends: Sequence[int]) -> list[int]:
    stop = next((i for i, token in enumerate(ids) if token in ends), None)
    return ids if stop is None else ids[: stop + 1]


def _row(prompt: Prompt, answer: list[int], ends: Sequence[int], tokenizer: Any) -> dict[str, Any]:
    finished = bool(answer) and answer[-1] in ends
    return {
        "domain": prompt.domain,
        "prompt": tokenizer.decode(prompt.input_ids, skip_special_tokens=True),
        "completion": tokenizer.decode(answer, skip_special_tokens=True),
        "input_ids": [*prompt.input_ids, *answer],
        "answer_start": len(prompt.input_ids),
        "finished": finished,
        "row": prompt.row,
        **({} if prompt.difficulty is None else {"difficulty": prompt.difficulty}),
    }
