"""`prune draft`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from prune.api._draft import DraftArguments
from prune.cli.commands.generate import PROMPTS_HELP
from prune.cli.flags import DryRun, Json, Model, Quiet, with_settings
from prune.cli.show import emit, table

COLUMNS = ("domain", "identical", "accepted", "at temperature 1", "tokens proposed", "formula", "predicted", "measured")


def draft(
    model: Model,
    output: Annotated[str, typer.Option("--output", "-o", help="New directory for the draft and its card.")],
    data: Annotated[list[str], typer.Option("--data", help=PROMPTS_HELP)],
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what a killed run left.")] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
    **settings: Any,
) -> None:
    """Find and train a draft of the model for speculative decoding: faster, with the same answers."""
    from prune import api

    facts = api.draft(model, output, data=data, resume=resume, dry_run=dry_run, **settings)
    if dry_run:
        shown = ", ".join(f"{len(keep)}" for keep in facts["candidates"])
        counts = ", ".join(f"{n} prompts of {name}" for name, n in facts["prompts"].items())
        emit(facts, [f"would try drafts of {shown} layers on {counts}"], as_json=as_json, quiet=quiet)
        return
    rows = [
        (
            name,
            f"{d['identical']} of {d['prompts']}" + (f", {d['ties']} ties" if d["ties"] else ""),
            _share(d["acceptance_rate"]),
            _share(d["sampled_acceptance"]),
            d["num_assistant_tokens"],
            _times(d["expected_speedup"]),
            _times(d["predicted_speedup"]),
            f"{d['speedup']:.2f} x ({d['speedup_lo']:.2f} to {d['speedup_hi']:.2f})",
        )
        for name, d in facts["domains"].items()
    ]
    if not as_json:
        table("draft", COLUMNS, rows, quiet=quiet)
    lines = [*(f"warning: {w}" for w in facts["warnings"])]
    lines.append(
        f"written: {output}; {facts['num_layers']} layers, cost {facts['draft_cost']:.2f} of the original's, so "
        f"at most {facts['ceiling']:.1f} x"
    )
    emit(dict(facts), lines, as_json=as_json, quiet=quiet)


def _times(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} x"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


command = with_settings(DraftArguments)(draft)
