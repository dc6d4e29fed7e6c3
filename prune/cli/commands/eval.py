"""`prune eval`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from prune.cli.flags import (
    DryRun,
    Dtype,
    Json,
    Model,
    Output,
    Quiet,
    Seed,
    split_names,
)
from prune.cli.show import emit, number, table


def command(
    model: Model,
    output: Output,
    baseline: Annotated[str, typer.Option("--baseline", help="The original model.")],
    suite: Annotated[str, typer.Option("--suite", help="Suite names or YAML files, with commas.")],
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Items per task; all if absent.")] = None,
    batch_size: Annotated[int, typer.Option("--batch_size", min=1)] = 32,
    seed: Seed = 0,
    dtype: Dtype = "float32",
    alpha: Annotated[float, typer.Option("--alpha", help="Error rate of the gate over all suites.")] = 0.05,
    include_path: Annotated[list[str] | None, typer.Option("--include_path", help="Folder of lm-eval tasks.")] = None,
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
        limit=limit,
        batch_size=batch_size,
        seed=seed,
        dtype=dtype,
        alpha=alpha,
        include_path=include_path or [],
        progress=not quiet and sys.stderr.isatty(),
        dry_run=dry_run,
    )
    if isinstance(result, dict):
        emit(
            result,
            [f"would run {name}: {', '.join(tasks)}" for name, tasks in result["suites"].items()]
            + result["gate_power"],
            as_json=as_json,
            quiet=quiet,
        )
        return 0
    if as_json:
        emit(result.model_dump(mode="json"), [], as_json=True, quiet=quiet)
    else:
        rows = [
            [
                s.name,
                number(s.original),
                number(s.candidate),
                number(s.retention),
                f"[{number(s.retention_lo)}, {number(s.retention_hi)}]",
                s.verdict,
            ]
            for s in result.suites
        ]
        table("Gate", ["suite", "original", "candidate", "retention", "interval", "verdict"], rows, quiet=quiet)
    return 0 if result.overall == "PASS" else 3
