"""`prune analyze`."""

from __future__ import annotations

from typing import Any

from prune.api._analyze import AnalyzeArguments
from prune.cli.flags import DataFlag, DryRun, Json, Model, Output, Quiet, with_settings
from prune.cli.show import data_used, emit, table


def analyze(
    model: Model,
    output: Output,
    data: DataFlag,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
    **settings: Any,
) -> None:
    """Measure how a model uses its depth."""
    from prune import api

    result = api.analyze(model, data, output=output, **{**settings, "dry_run": dry_run})
    if isinstance(result, api.DryRun):
        if not as_json:
            data_used(result["data"], [], quiet=quiet)
        emit(result, [f"would analyze {model} on {', '.join(result['data'])}"], as_json=as_json, quiet=quiet)
        return
    if as_json:
        emit(result.info, [], as_json=True, quiet=quiet)
        return
    from prune.analysis.display import headlines

    data_used(result.info["data"], result.info["warnings"], quiet=quiet)
    shown = headlines(result)
    rows = [[i, *(f"{values[i]:.4f}" for values in shown.values())] for i in range(result.num_layers)]
    table(f"{model}", ["layer", *shown], rows, quiet=quiet)
    emit({}, [f"written: {output} (open analysis.html)"], as_json=False, quiet=quiet)


command = with_settings(AnalyzeArguments)(analyze)
