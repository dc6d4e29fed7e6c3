"""`prune demo`."""

from __future__ import annotations

from typing import Annotated

import typer

from prune.cli.commands.run import finish
from prune.cli.flags import (
    DryRun,
    Json,
    Quiet,
)
from prune.cli.show import follow


def command(
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="Run directory.", show_default="runs/demo, or runs/demo-real")
    ] = None,
    real: Annotated[
        bool,
        typer.Option("--real", help="On SmolLM2-135M-Instruct, from the hub or by package; sized for 45 minutes."),
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run; keep what still holds.")] = False,
    show_recipe: Annotated[bool, typer.Option("--show_recipe", help="Print the demo's recipe and stop.")] = False,
    lang: Annotated[
        str | None, typer.Option("--lang", help="Language of the report, en or ja.", show_default="the recipe's")
    ] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """`run` on the embedded model: trained to add, to follow chains and to answer about stories."""
    if show_recipe:
        from prune.embedded import REAL, RECIPE

        print((REAL if real else RECIPE).read_text(encoding="utf8"), end="")
        return
    from prune import api

    follow(quiet)
    result = api.demo(output, real=real, resume=resume, dry_run=dry_run, lang=lang)
    finish(result, as_json, quiet)
