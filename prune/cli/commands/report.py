"""`prune report`."""

from __future__ import annotations

from typing import Annotated

import typer

from prune.cli.flags import DryRun, Json, Quiet
from prune.cli.show import emit
from prune.errors import UsageError


def command(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A finished run; or a folder with what analyze, plan and eval wrote.")
    ],
    lang: Annotated[str | None, typer.Option("--lang", help="en or ja.", show_default="the recipe's")] = None,
    vllm_bench: Annotated[
        list[str] | None,
        typer.Option(
            "--vllm_bench",
            metavar="NAME=FILE",
            help="Speeds from `vllm bench serve --save-result`; NAME is `original` or a number of layers.",
        ),
    ] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write the report of a finished run again, or of steps run one by one."""
    from prune import api

    benches = {}
    for pair in vllm_bench or []:
        name, equals, path = pair.partition("=")
        if not equals or not name or not path:
            raise UsageError(f"--vllm_bench {pair!r}: write NAME=FILE, NAME being `original` or a number of layers")
        benches[name] = path
    result = api.report(run, lang=lang, vllm_bench=benches, dry_run=dry_run)
    emit(result, [f"{'would write' if dry_run else 'written'}: {result['html']}"], as_json=as_json, quiet=quiet)
