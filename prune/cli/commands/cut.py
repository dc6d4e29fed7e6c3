"""`prune cut`."""

from __future__ import annotations

from typing import Annotated

import typer

from prune.cli.flags import AllowLinks, DryRun, Json, Model, Output, Quiet, RemoteCode, Revision
from prune.cli.show import emit


def command(
    model: Model,
    output: Output,
    plan: Annotated[str | None, typer.Option("--plan", help="plan.json of `prune plan`.")] = None,
    drop_layers: Annotated[str | None, typer.Option("--drop_layers", help="20,21,24-27; both ends included.")] = None,
    keep_layers: Annotated[str | None, typer.Option("--keep_layers", help="The layers that stay, same form.")] = None,
    drop_attn: Annotated[
        str | None, typer.Option("--drop_attn", help="Layers whose attention goes; with --drop_mlp.")
    ] = None,
    drop_mlp: Annotated[str | None, typer.Option("--drop_mlp", help="Layers whose MLP goes; with --drop_attn.")] = None,
    max_shard_size: Annotated[str, typer.Option("--max_shard_size", help="Largest weight file.")] = "5GB",
    link: Annotated[bool, typer.Option("--link", help="Reflink or hard-link unchanged weight files.")] = False,
    adapter: Annotated[
        list[str] | None, typer.Option("--adapter", help="LoRA directory to cut along; may be repeated.")
    ] = None,
    no_verify: Annotated[bool, typer.Option("--no_verify", help="Skip the proof that the result loads.")] = False,
    revision: Revision = None,
    trust_remote_code: RemoteCode = False,
    allow_links: AllowLinks = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Remove layers from a checkpoint, exactly."""
    from prune import api

    result = api.cut(
        model,
        output,
        plan=plan,
        drop_layers=drop_layers,
        keep_layers=keep_layers,
        drop_attn=drop_attn,
        drop_mlp=drop_mlp,
        max_shard_size=max_shard_size,
        link=link,
        adapters=adapter or (),
        verify=not no_verify,
        revision=revision,
        trust_remote_code=trust_remote_code,
        allow_links=allow_links,
        dry_run=dry_run,
    )
    state = "would write" if dry_run else "written and verified" if result.verified else "written, not verified"
    lines = [
        f"{state}: {output}, {len(result.keep)} of {result.num_layers_before} layers, {result.bytes_written:,} bytes"
    ]
    lines += getattr(result, "notes", [])
    emit(result.as_dict(), lines, as_json=as_json, quiet=quiet)
