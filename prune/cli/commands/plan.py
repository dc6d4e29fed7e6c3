"""`prune plan`."""

from __future__ import annotations

from typing import Annotated

import typer

from prune.cli.flags import (
    DryRun,
    Json,
    Output,
    Quiet,
    Seed,
    parse_weights,
)
from prune.cli.show import emit, listed


def command(
    analysis: Annotated[str, typer.Argument(metavar="DIR", help="What `prune analyze` wrote.")],
    output: Output,
    criterion: Annotated[str, typer.Option("--criterion", help="What a layer's worth is.")] = "dnll",
    strategy: Annotated[str, typer.Option("--strategy", help="How the set of layers is chosen.")] = "greedy",
    num_layers: Annotated[int | None, typer.Option("--num_layers", help="Layers that remain.")] = None,
    drop_fraction: Annotated[
        float | None, typer.Option("--drop_fraction", help="Share of the layers that goes.")
    ] = None,
    target_params: Annotated[
        int | None, typer.Option("--target_params", help="Parameters that remain at most.")
    ] = None,
    drop_layers: Annotated[str | None, typer.Option("--drop_layers", help="Explicit: 20,21,24-27 (both ends).")] = None,
    protect: Annotated[str, typer.Option("--protect", help="Layers that always stay: 0,1,30-31 (both ends).")] = "",
    domain_weights: Annotated[str | None, typer.Option("--domain_weights", help="general=0.5,math=0.5")] = None,
    seed: Seed = 0,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Decide which layers go."""
    from prune import api

    result = api.plan(
        analysis,
        output,
        criterion=criterion,
        strategy=strategy,
        num_layers=num_layers,
        drop_fraction=drop_fraction,
        target_params=target_params,
        drop_layers=drop_layers,
        protect=protect or (),
        domain_weights=parse_weights(domain_weights),
        seed=seed,
        dry_run=dry_run,
    )
    lines = [f"drop {listed(result.order)} (in this order), keep {len(result.keep)} of {result.num_layers}"]
    emit(result.model_dump(), lines, as_json=as_json, quiet=quiet)
