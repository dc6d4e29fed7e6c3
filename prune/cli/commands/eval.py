"""`prune eval`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prune.cli.flags import (
    AllowLinks,
    DryRun,
    Dtype,
    Json,
    Model,
    Output,
    Quiet,
    RemoteCode,
    Revision,
    Seed,
    split_names,
)
from prune.cli.show import emit, number, table
from prune.errors import UsageError

if TYPE_CHECKING:
    from evals.evidence import Evidence

Suites = Annotated[str, typer.Option("--suite", help="Suite names or YAML files, with commas.")]
Tasks = Annotated[
    str, typer.Option("--tasks", help="lm-eval tasks, with commas; with --suite, only these of its tasks are run.")
]
Size = Annotated[str, typer.Option("--size", help="`quick` or `full`, as each suite defines them; --limit wins.")]
Shots = Annotated[int | None, typer.Option("--num_fewshot", min=0, help="Examples in every prompt.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Items per task; all if absent.")]
Batch = Annotated[str, typer.Option("--batch_size", help="Sequences at a time, or `auto`.")]
GenKwargs = Annotated[str, typer.Option("--gen_kwargs", help="Generation settings, NAME=VALUE with commas.")]
ChatTemplate = Annotated[bool, typer.Option("--apply_chat_template", help="Wrap prompts in the chat template.")]
MultiTurn = Annotated[
    bool | None,
    typer.Option(
        "--fewshot_as_multiturn/--no_fewshot_as_multiturn",
        help="Examples as turns of a conversation; the default with a chat template.",
    ),
]
System = Annotated[str | None, typer.Option("--system_instruction", help="Text before every prompt.")]
Include = Annotated[
    list[str] | None, typer.Option("--include_path", help="Folder of lm-eval task files; they may run Python.")
]
LocalData = Annotated[str | None, typer.Option("--local_data", help="Folder of data files that stand in for the hub.")]
LogSamples = Annotated[bool, typer.Option("--log_samples", help="Keep documents and prompts with the samples.")]
Unsafe = Annotated[bool, typer.Option("--confirm_run_unsafe_code", help="Allow tasks that run generated code.")]
Backend = Annotated[str, typer.Option("--backend", help="`hf`, or `vllm` where that is installed.")]
ModelArgs = Annotated[str, typer.Option("--model_args", help="Options of vLLM, NAME=VALUE with commas.")]
Alpha = Annotated[float, typer.Option("--alpha", help="Error rate of the gate over all suites.")]


def command(
    model: Model,
    output: Output,
    baseline: Annotated[str, typer.Option("--baseline", help="The original model.")],
    suite: Suites = "",
    tasks: Tasks = "",
    size: Size = "full",
    num_fewshot: Shots = None,
    limit: Limit = None,
    batch_size: Batch = "32",
    gen_kwargs: GenKwargs = "",
    apply_chat_template: ChatTemplate = False,
    fewshot_as_multiturn: MultiTurn = None,
    system_instruction: System = None,
    include_path: Include = None,
    local_data: LocalData = None,
    log_samples: LogSamples = False,
    seed: Seed = 0,
    dtype: Dtype = "float32",
    alpha: Alpha = 0.05,
    revision: Revision = None,
    trust_remote_code: RemoteCode = False,
    allow_links: AllowLinks = False,
    confirm_run_unsafe_code: Unsafe = False,
    backend: Backend = "hf",
    model_args: ModelArgs = "",
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Test a model against its original, and judge it: exit code 3 when the gate does not pass."""
    from prune import api

    result = api.eval(
        model,
        output,
        baseline=baseline,
        suite=split_names(suite) or [],
        tasks=split_names(tasks) or [],
        size=size,
        num_fewshot=num_fewshot,
        limit=limit,
        batch_size=_batch_size(batch_size),
        gen_kwargs=_settings("--gen_kwargs", gen_kwargs),
        apply_chat_template=apply_chat_template,
        fewshot_as_multiturn=fewshot_as_multiturn,
        system_instruction=system_instruction,
        include_path=include_path or [],
        local_data=local_data,
        log_samples=log_samples,
        seed=seed,
        dtype=dtype,
        alpha=alpha,
        trust_remote_code=trust_remote_code,
        confirm_run_unsafe_code=confirm_run_unsafe_code,
        backend=backend,
        model_args=_settings("--model_args", model_args),
        progress=not quiet and sys.stderr.isatty(),
        revision=revision,
        allow_links=allow_links,
        dry_run=dry_run,
    )
    if isinstance(result, dict):
        planned = [f"would run {name}: {', '.join(tasks)}" for name, tasks in result["suites"].items()]
        emit(result, planned + result["notes"] + result["gate_power"], as_json=as_json, quiet=quiet)
        return 0
    _show(result, as_json, quiet)
    if not as_json:
        emit({}, [*_remarks(result), f"written: {output} ({result.overall})"], as_json=False, quiet=quiet)
    return 0 if result.overall == "PASS" else 3


def _show(result: Any, as_json: bool, quiet: bool) -> None:
    if as_json:
        emit(result.model_dump(mode="json"), [], as_json=True, quiet=quiet)
        return
    from prune.wording import message
    from prune.wording.message import ends
    from prune.wording.text import english

    rows = [
        [
            found.name,
            number(found.original),
            number(found.candidate),
            english(message("share_kept", share=found.retention)),
            english(ends(found.retention_lo, found.retention_hi)) if found.retention is not None else "-",
            found.verdict,
        ]
        for found in result.suites
    ]
    table("Gate", ["suite", "original", "candidate", "retention", "interval", "verdict"], rows, quiet=quiet)


def _remarks(result: Evidence) -> list[str]:
    """Why a suite has no figures, and how many items would settle one that is undecided."""
    lines = [f"{found.name}: {found.note}" for found in result.suites if found.note]
    return lines + [
        f"{found.name}: about {found.items_needed:,} items would decide it; {found.n:,} were compared"
        for found in result.suites
        if found.items_needed
    ]


def _batch_size(text: str) -> int | str:
    if text.isdigit() and int(text) > 0:
        return int(text)
    if text.split(":")[0] == "auto":
        return text
    raise UsageError(f"--batch_size {text!r}: a number of at least 1, or auto")


def _settings(flag: str, text: str) -> dict[str, Any]:
    """`max_gen_toks=256,temperature=0` with values read as YAML reads them."""
    import yaml

    pairs = {}
    for part in text.split(",") if text else []:
        name, equals, value = part.partition("=")
        if not equals or not name.strip():
            raise UsageError(f"{flag} {text!r}: write NAME=VALUE,NAME=VALUE")
        pairs[name.strip()] = yaml.safe_load(value)
    return pairs
