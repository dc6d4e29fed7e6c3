"""`prune run`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from evals.text import NotText, read_text
from prune.cli.flags import (
    DryRun,
    Json,
    Quiet,
)
from prune.cli.show import emit, follow, listed, summary, table
from prune.errors import UsageError
from prune.estimates.stage import COLUMNS, cells
from prune.shown import document


def command(
    recipe: Annotated[
        str | None, typer.Argument(metavar="RECIPE", help="YAML file, or a built-in recipe: demo, poc.")
    ] = None,
    named: Annotated[str | None, typer.Option("--recipe", help="The same, as a flag.")] = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="Run directory.", show_default="runs/RECIPE")
    ] = None,
    show_recipe: Annotated[bool, typer.Option("--show_recipe", help="Print the recipe and stop.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run; keep what still holds.")] = False,
    lang: Annotated[
        str | None, typer.Option("--lang", help="Language of the report, en or ja.", show_default="the recipe's")
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option("--rounds", help="Cut and heal in so many turns.", show_default="the recipe's heal.rounds"),
    ] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """The whole path: analyze, plan, cut, heal, eval, gate, export, report."""
    if (recipe is None) == (named is None):
        raise UsageError("give one recipe: `prune run RECIPE` or `prune run --recipe RECIPE`")
    recipe = recipe or named or ""
    if show_recipe:
        print(document(_text(recipe)), end="")
        return
    from prune import api

    follow(quiet)
    result = api.run(recipe, output, resume=resume, dry_run=dry_run, lang=lang, rounds=rounds)
    finish(result, as_json, quiet)


def _text(recipe: str) -> str:
    from prune.embedded import RECIPES

    path = RECIPES.get(recipe, Path(recipe))
    if not path.is_file():
        raise UsageError(f"{recipe}: no such recipe; built-in ones are {', '.join(RECIPES)}")
    try:
        return read_text(path)
    except NotText as error:
        raise UsageError(f"{path}: {error}") from None


def finish(result: Any, as_json: bool, quiet: bool) -> None:
    if isinstance(result, dict):
        lines = [f"would cut {result['model']} from {result['num_layers']} layers to {listed(result['depths'])}"]
        estimate = result["estimate"]
        warned = [f"warning: {said}" for said in estimate["warnings"]]
        emit(result, [*lines, *result["gate_power"], *warned], as_json=as_json, quiet=quiet)
        if not as_json:
            table("what it will take, about", COLUMNS, cells(estimate["stages"]), quiet=quiet)
        return
    if as_json:
        emit(result.as_dict(), [], as_json=True, quiet=quiet)
        return
    from prune.reporting.data import ReportData

    data = ReportData.load(result.root / "report.json")
    columns, rows = summary(data)
    table(data.title, columns, rows, quiet=quiet)
    lines = [f"verdict: {result.choice.label}", f"report: {result.root / 'report.html'}"]
    emit({}, [*lines, f"export: {result.root / 'export'}"], as_json=False, quiet=quiet)
