"""`prune cut`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from prune.api._cut import CutArguments
from prune.cli.flags import DryRun, Json, Model, Output, Quiet, with_settings
from prune.cli.show import emit


def cut(
    model: Model,
    output: Output,
    plan: Annotated[str | None, typer.Option("--plan", help="plan.json of `prune plan`.")] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
    **settings: Any,
) -> None:
    """Remove layers from a checkpoint, exactly."""
    from prune import api

    result = api.cut(model, output, plan=plan, dry_run=dry_run, **settings)
    state = "would write" if dry_run else "written and verified" if result.verified else "written, not verified"
    lines = [
        f"{state}: {output}, {len(result.keep)} of {result.num_layers_before} layers, {result.bytes_written:,} bytes"
    ]
    lines += getattr(result, "notes", [])
    if result.runtimes:
        from prune.serving.check import in_words

        lines += in_words(result.runtimes)
    emit(result.as_dict(), lines, as_json=as_json, quiet=quiet)


command = with_settings(CutArguments)(cut)
