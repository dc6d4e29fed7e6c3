"""`prune compare`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from prune.cli.commands.eval import Alpha, Include, Limit, LocalData, Suites, Unsafe
from prune.cli.flags import (
    DATA_HELP,
    AllowLinks,
    DryRun,
    Dtype,
    Json,
    Lang,
    Output,
    Quiet,
    RemoteCode,
    Revision,
    Seed,
    split_names,
)
from prune.cli.show import emit, number, table


def command(
    models: Annotated[list[str], typer.Argument(metavar="A B ...", help="Two or more; the first is the reference.")],
    output: Output,
    suite: Suites = "",
    size: Annotated[str, typer.Option("--size", help="`quick` or `full`, as each suite defines them.")] = "quick",
    limit: Limit = None,
    include_path: Include = None,
    local_data: LocalData = None,
    data: Annotated[list[str] | None, typer.Option("--data", help=f"For depth use. {DATA_HELP}")] = None,
    depth_map: Annotated[
        bool, typer.Option("--depth_map", help="Best linear map from each depth of A to each of B (two models).")
    ] = False,
    seq_length: Annotated[int, typer.Option("--seq_length", min=2, help="Longer documents are cut, in tokens.")] = 512,
    calib_num_samples: Annotated[
        int | None, typer.Option("--calib_num_samples", min=1, help="Documents per domain; all if absent.")
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch_size", min=1, help="Documents or prompts at a time.")] = 8,
    cost_batch_size: Annotated[
        int, typer.Option("--cost_batch_size", min=1, help="Sequences at a time where speed is measured.")
    ] = 1,
    prompt_tokens: Annotated[
        int, typer.Option("--prompt_tokens", min=1, help="Length of their prompts, in tokens.")
    ] = 128,
    new_tokens: Annotated[int, typer.Option("--new_tokens", min=2, help="Tokens generated after each prompt.")] = 32,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Timings behind each median.")] = 3,
    bootstrap: Annotated[
        int, typer.Option("--bootstrap", min=10, help="Resamples behind the intervals of the depth use.")
    ] = 200,
    seed: Seed = 0,
    dtype: Dtype = "float32",
    alpha: Alpha = 0.05,
    lang: Lang = "en",
    confirm_run_unsafe_code: Unsafe = False,
    revision: Revision = None,
    trust_remote_code: RemoteCode = False,
    allow_links: AllowLinks = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Quality, cost, depth use and width of several checkpoints, with the Pareto front."""
    from prune import api
    from prune.wording.text import english

    result = api.compare(
        models,
        output,
        suite=split_names(suite) or (),
        size=size,
        limit=limit,
        include_path=include_path or (),
        local_data=local_data,
        data=data or (),
        depth_map=depth_map,
        seq_length=seq_length,
        calib_num_samples=calib_num_samples,
        batch_size=batch_size,
        cost_batch_size=cost_batch_size,
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        repeats=repeats,
        bootstrap=bootstrap,
        seed=seed,
        dtype=dtype,
        alpha=alpha,
        lang=lang,
        confirm_run_unsafe_code=confirm_run_unsafe_code,
        progress=not quiet and sys.stderr.isatty(),
        revision=revision,
        trust_remote_code=trust_remote_code,
        allow_links=allow_links,
        dry_run=dry_run,
    )
    if isinstance(result, dict):
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
