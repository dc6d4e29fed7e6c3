"""`prune export`."""

from __future__ import annotations

from typing import Annotated

import typer

from prune.cli.flags import AllowLinks, DryRun, Json, Model, Output, Quiet, RemoteCode, Revision
from prune.cli.show import emit


def command(
    model: Model,
    output: Output,
    evidence: Annotated[str | None, typer.Option("--evidence", help="What `prune eval` wrote.")] = None,
    plan: Annotated[str | None, typer.Option("--plan", help="The plan behind the cut.")] = None,
    override: Annotated[str | None, typer.Option("--override", help="Export without a PASS; the reason.")] = None,
    source: Annotated[str | None, typer.Option("--source", help="The original's id, for the card.")] = None,
    revision: Revision = None,
    trust_remote_code: RemoteCode = False,
    allow_links: AllowLinks = False,
    max_shard_size: Annotated[str, typer.Option("--max_shard_size", help="Largest weight file.")] = "5GB",
    quantize: Annotated[str | None, typer.Option("--quantize", help="nf4 or int8: a variant beside it.")] = None,
    push_to_hub: Annotated[bool, typer.Option("--push_to_hub", help="Upload the finished directory.")] = False,
    hub_model_id: Annotated[str | None, typer.Option("--hub_model_id", help="org/name to upload to.")] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    token: Annotated[
        str | None, typer.Option("--token", help="Hub token.", show_default="the one you logged in with")
    ] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Package a cut or healed model, with manifest and card."""
    from prune import api

    manifest = api.export(
        model,
        output,
        evidence=evidence,
        plan=plan,
        override=override,
        source=source,
        revision=revision,
        max_shard_size=max_shard_size,
        quantize=quantize,
        push_to_hub=push_to_hub,
        hub_model_id=hub_model_id,
        private=private,
        token=token,
        trust_remote_code=trust_remote_code,
        allow_links=allow_links,
        dry_run=dry_run,
    )
    state = "would be written" if dry_run else "written"
    lines = [f"{state}: {output} ({manifest['label']})"]
    if quantize:
        lines.append(f"{state}: {output.rstrip('/')}-{quantize} (not measured itself)")
    emit(manifest, lines, as_json=as_json, quiet=quiet)
