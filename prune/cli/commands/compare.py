"""`prune compare`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from prune.api._compare import CompareArguments
from prune.cli.commands.suites import listing
from prune.cli.flags import DATA_HELP, DryRun, Json, Output, Quiet, with_settings
from prune.cli.show import emit, number, table


def compare(
    models: Annotated[list[str], typer.Argument(metavar="A B ...", help="Two or more; the first is the reference.")],
    output: Output,
    data: Annotated[list[str] | None, typer.Option("--data", help=f"For depth use. {DATA_HELP}")] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
    **settings: Any,
) -> None:
    """Quality, cost, depth use and width of several checkpoints, with the Pareto front."""
    from prune import api
    from prune.wording.text import english

    asked: dict[str, Any] = {**settings, "dry_run": dry_run}
    result = api.compare(models, output, data=data or (), **asked)
    if isinstance(result, api.DryRun):
        emit(result, [f"would compare {', '.join(result['models'])}"], as_json=as_json, quiet=quiet)
        return
    if as_json:
        emit(result.model_dump(mode="json"), [], as_json=True, quiet=quiet)
        return
    suites = list(result.models[0].suites)
    columns = ["model", "layers", *suites, "parameters", "decode tokens/s", "depth score", "width used", "Pareto"]
    rows = []
    for m in result.models:
        scores = [f"{number(m.suites[s].value)} {m.suites[s].verdict or ''}".strip() for s in suites]
        pareto = {True: "yes", False: "no", None: "-"}[m.pareto]
        speed = f"{m.throughput.decode_tokens_per_s:.0f}"
        use = [number(m.depth_score), number(m.width_used)]
        rows.append([m.name, m.footprint.layers, *scores, f"{m.footprint.parameters:,}", speed, *use, pareto])
    table("Comparison", columns, rows, quiet=quiet)
    lines = [f"speed: {english(result.setting)}", f"written: {output} (open compare.html)"]
    if result.depth_map:
        lines.insert(0, f"depth map: {result.depth_map['sentence']}")
    emit({}, lines, as_json=False, quiet=quiet)


epilog = listing
command = with_settings(CompareArguments)(compare)
