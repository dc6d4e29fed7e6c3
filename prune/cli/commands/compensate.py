"""`prune compensate`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from prune.api._compensate import CompensateArguments
from prune.cli.flags import DataFlag, DryRun, Json, Model, Quiet, with_settings
from prune.cli.show import emit


def compensate(
    model: Model,
    output: Annotated[str, typer.Option("--output", "-o", help="New plan to write; its weights lie beside it.")],
    data: DataFlag,
    plan: Annotated[str, typer.Option("--plan", help="plan.json of `prune plan`.")],
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
    **settings: Any,
) -> None:
    """Repair the gaps of a plan without training; `prune cut --plan` writes the result."""
    from prune import api

    result = api.compensate(model, output, plan=plan, data=data, **{**settings, "dry_run": dry_run})
    if isinstance(result, api.DryRun):
        emit(result, [f"would compensate {plan} and write {output}"], as_json=as_json, quiet=quiet)
        return
    record = result.compensation or {}
    lines = [f"written: {output}"]
    for gap in record["gaps"]:
        layers = f"{gap['first']}-{gap['last']}" if gap["last"] > gap["first"] else str(gap["first"])
        if gap["kept"]:
            nll = gap["nll"]
            lines.append(
                f"gap {layers}: {gap['form']} map in layer {gap['layer']}, ridge {gap['ridge']:g}, held-out NLL "
                f"{nll['before']:.4f} -> {nll['after']:.4f}"
            )
        else:
            lines.append(f"gap {layers}: left as it is: {gap['reason']}")
    nll = record["nll"]
    lines.append(f"held-out NLL {nll['before']['total']:.4f} -> {nll['after']['total']:.4f} nats per token")
    emit(result.model_dump(), lines, as_json=as_json, quiet=quiet)


command = with_settings(CompensateArguments)(compensate)
