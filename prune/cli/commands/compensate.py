"""`prune compensate`."""

from __future__ import annotations

from typing import Annotated

import typer

from prune.cli.flags import (
    AllowLinks,
    DataFlag,
    DryRun,
    Dtype,
    Json,
    Model,
    Quiet,
    RemoteCode,
    Revision,
    Seed,
    Weights,
    parse_weights,
)
from prune.cli.show import emit


def command(
    model: Model,
    output: Annotated[str, typer.Option("--output", "-o", help="New plan to write; its weights lie beside it.")],
    data: DataFlag,
    plan: Annotated[str, typer.Option("--plan", help="plan.json of `prune plan`.")],
    method: Annotated[
        str, typer.Option("--method", help="linear: a matrix for each gap, fitted with a ridge; scale: one number.")
    ] = "linear",
    domain_weights: Weights = None,
    seq_length: Annotated[int, typer.Option("--seq_length", help="Longer documents are cut, in tokens.")] = 512,
    calib_num_samples: Annotated[
        int | None, typer.Option("--calib_num_samples", help="Documents per domain; all if not given.")
    ] = None,
    seed: Seed = 0,
    dtype: Dtype = "float32",
    revision: Revision = None,
    trust_remote_code: RemoteCode = False,
    allow_links: AllowLinks = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Repair the gaps of a plan without training; `prune cut --plan` writes the result."""
    from prune import api

    result = api.compensate(
        model,
        output,
        plan=plan,
        data=data,
        method=method,
        domain_weights=parse_weights(domain_weights),
        seq_length=seq_length,
        calib_num_samples=calib_num_samples,
        seed=seed,
        dtype=dtype,
        revision=revision,
        trust_remote_code=trust_remote_code,
        allow_links=allow_links,
        dry_run=dry_run,
    )
    if isinstance(result, dict):
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
