"""`prune generate`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from prune.api._generate import GenerateArguments
from prune.cli.flags import DryRun, Json, Model, Quiet, with_settings
from prune.cli.show import emit

PROMPTS_HELP = (
    "Prompts of one domain, NAME=PATH; may be repeated. Rows with prompt, messages (chat template), text (its first "
    "--prompt_tokens tokens), or input_ids + answer_start; completions are not used."
)


def generate(
    model: Model,
    output: Annotated[str, typer.Option("--output", "-o", help="New .jsonl file to write.")],
    data: Annotated[list[str], typer.Option("--data", help=PROMPTS_HELP)],
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what a killed run left.")] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
    **settings: Any,
) -> None:
    """Let the original model answer prompts; the answers are training data for `prune heal`."""
    from prune import api

    facts = api.generate(
        model,
        output,
        data=data,
        resume=resume,
        dry_run=dry_run,
        **settings,
    )
    counts = ", ".join(f"{d['prompts']} prompts of {name}" for name, d in facts["data"].items())
    if dry_run:
        emit(facts, [f"would answer {counts}"], as_json=as_json, quiet=quiet)
        return
    line = (
        f"written: {output}; {facts['answers']} answers to {counts}, {facts['new_tokens']} tokens, "
        f"{facts['cut_short']} cut short, {facts['seconds']:.0f} s"
    )
    emit(facts, [line], as_json=as_json, quiet=quiet)


command = with_settings(GenerateArguments)(generate)
