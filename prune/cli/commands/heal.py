"""`prune heal`."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer

from prune.cli.flags import (
    AllowLinks,
    DataFlag,
    DryRun,
    Json,
    Model,
    Output,
    Quiet,
    RemoteCode,
    Revision,
    Weights,
    parse_weights,
    split_names,
    with_settings,
)
from prune.cli.show import emit
from prune.healing.settings import HealSettings


def heal(
    model: Model,
    output: Output,
    data: DataFlag,
    teacher: Annotated[str | None, typer.Option("--teacher", help="The original; needed for distillation.")] = None,
    domain_weights: Weights = None,
    resume: Annotated[
        bool, typer.Option("--resume_from_checkpoint", "--resume", help="Go on from the newest training checkpoint.")
    ] = False,
    seq_length: Annotated[
        int | None, typer.Option("--seq_length", help="Longer documents are cut, in tokens; --max_length if not given.")
    ] = None,
    track_suites: Annotated[
        str | None, typer.Option("--track_suites", help="Suites scored at every held-out evaluation, with commas.")
    ] = None,
    track_limit: Annotated[int, typer.Option("--track_limit", help="Items of each task of --track_suites.")] = 50,
    local_data: Annotated[
        str | None, typer.Option("--local_data", help="Folder of data files that stand in for the hub, for these.")
    ] = None,
    include_path: Annotated[
        list[str] | None, typer.Option("--include_path", help="Folder with lm-eval task files of your own.")
    ] = None,
    revision: Revision = None,
    trust_remote_code: RemoteCode = False,
    allow_links: AllowLinks = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
    **settings: Any,
) -> None:
    """Train a cut model back towards its original, and merge."""
    from prune import api

    result = api.heal(
        model,
        output,
        teacher=teacher,
        data=data,
        domain_weights=parse_weights(domain_weights),
        seq_length=seq_length,
        resume=resume,
        track_suites=split_names(track_suites) or (),
        track_limit=track_limit,
        local_data=local_data,
        include_path=include_path or (),
        progress=not quiet and sys.stderr.isatty(),
        revision=revision,
        trust_remote_code=trust_remote_code,
        allow_links=allow_links,
        dry_run=dry_run,
        **settings,
    )
    if isinstance(result, dict):
        emit(result, [f"would heal {model} on {', '.join(result['data'])}"], as_json=as_json, quiet=quiet)
        return
    line = (
        f"written: {output}; held-out loss {result.held_out_before:.4f} -> {result.held_out_after:.4f} nats per token "
        f"in {result.steps} steps, {result.seconds:.0f} s"
    )
    if result.settings.method == "qlora":
        line += f"; over the 4-bit weights, before the merge, it was {result.held_out_adapted:.4f}"
    if result.best_step == 0:
        line += "; training never beat the pruned model, so these are its weights"
    if os.environ.get("RANK", "0") == "0":  # one voice under `accelerate launch`
        emit(result.as_dict(), [line], as_json=as_json, quiet=quiet)


command = with_settings(HealSettings)(heal)
