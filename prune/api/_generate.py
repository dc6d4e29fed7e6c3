"""`prune.generate`: the original model's own answers, as training data for `prune.heal`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.api._inputs import Data, DryRun, check_files
from prune.data.domains import pad_token
from prune.data.rows import Documents, origin
from prune.errors import UsageError
from prune.files import sha256_json, write_json, write_text
from prune.healing.settings import GenerateSettings
from prune.model.settings import ModelSettings
from prune.settings import fields_of, takes, validated

if TYPE_CHECKING:
    from prune.healing.prompts import Prompt


class GenerateArguments(ModelSettings, GenerateSettings):
    """Everything that `prune generate` can be told beside the model, the prompts and the output."""


@takes(GenerateArguments)
def generate(
    model: str,
    output: str | Path,
    *,
    data: Data,
    resume: bool = False,
    progress: Callable[[int, int], None] | None = None,
    dry_run: bool = False,
    **settings: Any,
) -> dict[str, Any]:
    """Prompts in, the model's own answers out: one `.jsonl` file that `prune heal --data NAME=FILE` reads.

    Beside the file stands `<file>.provenance.json`: model and prompt hashes, settings, versions, counts.

    Args:
        model: the original; directory, hub id, or `embedded`.
        output: new `.jsonl` file.
        data: prompts by domain; rows with `prompt`, `messages`, `text`, or `input_ids` + `answer_start`.
        resume: go on with what a killed run left.
        progress: called with answers done and answers in all.
        dry_run: check the input and return what would be done.

    Returns:
        The provenance.

    Raises:
        UsageError, PruneError: bad input; the output does not exist then.
    """
    from prune.checkpoint.source import resolve
    from prune.model.loading import load_config, load_model, load_tokenizer
    from prune.versions import library_versions

    target = Path(output)
    if target.suffix != ".jsonl":
        raise UsageError(f"{target}: give -o a file that ends in .jsonl")
    if target.exists():
        raise UsageError(f"{target} exists: give -o a new file, or remove it first")
    asked = validated(GenerateArguments, settings)
    chosen = GenerateSettings(**fields_of(GenerateSettings, asked))
    files = check_files(data)
    source = resolve(model, **fields_of(ModelSettings, asked))
    tokenizer = load_tokenizer(source)
    context = getattr(load_config(source).get_text_config(), "max_position_embeddings", None)
    prompts, described = _read(files, tokenizer, chosen, context)
    facts: dict[str, Any] = {"model": source.label, "revision": source.revision}
    facts |= {"dtype": asked.dtype, "settings": chosen.model_dump(), "data": described}
    if dry_run:
        return DryRun(facts)
    from prune.healing.generate import generate_answers, remove_partial

    loaded = load_model(source)
    facts["model_sha256"] = source.sha256
    partial, began = target.with_name(f".{target.name}.batches"), time.monotonic()
    answers = generate_answers(
        loaded,
        tokenizer,
        prompts,
        chosen,
        pad_token_id=pad_token(tokenizer),
        partial=partial,
        identity={"model": facts["model_sha256"], "dtype": asked.dtype},
        resume=resume,
        progress=progress,
    )
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in answers.rows)
    facts |= {
        "answers": len(answers.rows),
        "cut_short": answers.cut_short,
        "new_tokens": answers.new_tokens,
        "resumed": answers.resumed,
        "seconds": round(time.monotonic() - began, 2),
        "answers_sha256": sha256_json([row["input_ids"] for row in answers.rows]),
        "versions": library_versions(),
    }
    write_json(target.with_name(f"{target.name}.provenance.json"), facts)
    write_text(target, text)
    remove_partial(partial)
    return facts


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
