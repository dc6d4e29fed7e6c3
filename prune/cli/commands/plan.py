"""`prune plan`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from prune.cli.flags import AllowLinks, Json, Quiet, RemoteCode, Seed, Weights, parse_weights
from prune.cli.show import emit, listed, number, table
from prune.planning.registry import criterion_names, strategy_names

CRITERION_HELP = f"What a layer's worth is: {', '.join(criterion_names())}; see prune/planning/README.md."
STRATEGY_HELP = f"How the set of layers is chosen: {', '.join(strategy_names())}."


def command(
    analysis: Annotated[str, typer.Argument(metavar="DIR", help="What `prune analyze` wrote.")],
    output: Annotated[
        str, typer.Option("--output", "-o", help="New plan.json to write; with --sweep a new directory.")
    ],
    criterion: Annotated[str, typer.Option("--criterion", help=CRITERION_HELP)] = "dnll",
    strategy: Annotated[str, typer.Option("--strategy", help=STRATEGY_HELP)] = "greedy",
    num_layers: Annotated[int | None, typer.Option("--num_layers", help="Layers that remain.")] = None,
    drop_fraction: Annotated[
        float | None, typer.Option("--drop_fraction", help="Share of the layers that goes.")
    ] = None,
    target_params: Annotated[
        int | None, typer.Option("--target_params", help="Parameters that remain at most.")
    ] = None,
    target_bytes: Annotated[
        int | None, typer.Option("--target_bytes", help="Bytes of the checkpoint that remain at most.")
    ] = None,
    target_speedup: Annotated[
        float | None,
        typer.Option("--target_speedup", help="1.5: decoding so many times as fast, predicted by bytes read a token."),
    ] = None,
    drop_layers: Annotated[str | None, typer.Option("--drop_layers", help="Explicit: 20,21,24-27 (both ends).")] = None,
    keep_layers: Annotated[str | None, typer.Option("--keep_layers", help="The layers that stay, same form.")] = None,
    protect: Annotated[str, typer.Option("--protect", help="Layers that always stay: 0,1,30-31 (both ends).")] = "",
    domain_weights: Weights = None,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="The frontier down to half of the layers (or the budget), into a directory.")
    ] = False,
    beam_width: Annotated[int, typer.Option("--beam_width", help="Subsets that a beam search keeps.")] = 4,
    block_size: Annotated[int, typer.Option("--block_size", help="Layers in a block of strategy blocks.")] = 2,
    max_subsets: Annotated[
        int, typer.Option("--max_subsets", help="Subsets that evolutionary and greedy_swap score at most, per depth.")
    ] = 600,
    score_cache: Annotated[
        str | None, typer.Option("--score_cache", help="Keeps every score; scores.sqlite beside DIR if not given.")
    ] = None,
    seed: Seed = 0,
    trust_remote_code: RemoteCode = False,
    allow_links: AllowLinks = False,
    dry_run: Annotated[bool, typer.Option("--dry_run", help="Search and show the plan; keep only the scores.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Decide which layers go."""
    from prune import api
    from prune.planning.frontier import Frontier

    result = api.plan(
        analysis,
        output,
        criterion=criterion,
        strategy=strategy,
        num_layers=num_layers,
        drop_fraction=drop_fraction,
        target_params=target_params,
        target_bytes=target_bytes,
        target_speedup=target_speedup,
        drop_layers=drop_layers,
        keep_layers=keep_layers,
        protect=protect or (),
        domain_weights=parse_weights(domain_weights),
        beam_width=beam_width,
        block_size=block_size,
        max_subsets=max_subsets,
        score_cache=score_cache,
        sweep=sweep,
        seed=seed,
        trust_remote_code=trust_remote_code,
        allow_links=allow_links,
        dry_run=dry_run,
    )
    state = "would write" if dry_run else "written"
    if isinstance(result, Frontier):
        _show_frontier(result.describe(), as_json=as_json, quiet=quiet)
        if not as_json:
            emit({}, [f"{state}: {output} (open frontier.html)"], as_json=False, quiet=quiet)
        return
    lines = [
        f"{state}: {output}",
        f"drop {listed(result.order)} (in this order), keep {len(result.keep)} of {result.num_layers}",
    ]
    if result.evaluations:
        used = result.evaluations
        lines.append(
            f"{used['layer_evaluations']:,} layer evaluations, {used['naive_layer_evaluations']:,} without prefix "
            f"reuse; {used['subsets_from_cache']} of {used['subsets']} subsets scored before"
        )
    emit(result.model_dump(), lines, as_json=as_json, quiet=quiet)


def _show_frontier(found: dict[str, Any], *, as_json: bool, quiet: bool) -> None:
    if as_json:
        emit(found, [], as_json=True, quiet=quiet)
        return
    names = list(found["points"][-1]["by_domain"])
    columns = ["layers", "dropped", found["score"], *names]
    rows = [
        [
            str(point["num_layers"]),
            listed(point["drop"]) or "-",
            _interval(point["score"]),
            *(_interval(point["by_domain"].get(name)) for name in names),
        ]
        for point in found["points"]
    ]
    table(f"{found['criterion']}, {found['strategy']}", columns, rows, quiet=quiet)


def _interval(score: dict[str, float | None] | None) -> str:
    if score is None or score["lo"] is None:
        return number(score["value"] if score else None)
    return f"{number(score['value'])} ({number(score['lo'])} to {number(score['hi'])})"
