"""`prune heal`."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from prune.api._heal import HealArguments
from prune.cli.flags import DataFlag, DryRun, Json, Model, Output, Quiet, with_settings
from prune.cli.show import data_used, emit, follow


def heal(
    model: Model,
    output: Output,
    data: DataFlag,
    teacher: Annotated[str | None, typer.Option("--teacher", help="The original; needed for distillation.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume_from_checkpoint", "--resume", help="Go on from the newest training checkpoint.")
    ] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
    **settings: Any,
) -> None:
    """Train a cut model back towards its original, and merge."""
    from prune import api

    follow(quiet)
    asked: dict[str, Any] = {**settings, "dry_run": dry_run}
    result: Any = api.heal(model, output, teacher=teacher, data=data, resume=resume, **asked)
    if isinstance(result, api.DryRun):
        if not as_json:
            data_used(result["data"], [], quiet=quiet)
        emit(result, [f"would heal {model} on {', '.join(result['data'])}"], as_json=as_json, quiet=quiet)
        return
    line = (
        f"written: {output}; held-out loss {result.held_out_before:.4f} -> {result.held_out_after:.4f} nats per token "
        f"in {result.steps} steps, {result.seconds:.0f} s"
    )
    if result.held_out_original is not None:
        line += f"; the original has {result.held_out_original:.4f}"
    if result.settings.method == "qlora":
        line += f"; over the 4-bit weights, before the merge, it was {result.held_out_adapted:.4f}"
    if result.best_step == 0:
        line += "; training never beat the pruned model, so these are its weights"
    if os.environ.get("RANK", "0") == "0":  # one voice under `accelerate launch`
        emit(result.as_dict(), [line], as_json=as_json, quiet=quiet)


command = with_settings(HealArguments)(heal)
