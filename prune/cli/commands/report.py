"""`prune report`."""

from __future__ import annotations

from typing import Annotated

import typer

from prune.cli.flags import (
    Json,
    Quiet,
)
from prune.cli.show import emit


def command(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A finished run directory.")],
    lang: Annotated[str, typer.Option("--lang", help="en or ja.")] = "en",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write the report of a finished run again."""
    from prune import api

    result = api.report(run, lang=lang)
    emit(result, [f"written: {result['html']}"], as_json=as_json, quiet=quiet)
