"""`prune export`."""

from __future__ import annotations

from typing import Annotated

import typer

from prune.cli.flags import (
    DryRun,
    Json,
    Model,
    Output,
    Quiet,
    Revision,
)
from prune.cli.show import emit


def command(
    model: Model,
    output: Output,
    evidence: Annotated[str | None, typer.Option("--evidence", help="What `prune eval` wrote.")] = None,
    plan: Annotated[str | None, typer.Option("--plan", help="The plan behind the cut.")] = None,
    override: Annotated[str | None, typer.Option("--override", help="Export without a PASS; the reason.")] = None,
    source: Annotated[str | None, typer.Option("--source", help="The original's id, for the card.")] = None,
    revision: Revision = None,
    max_shard_size: Annotated[str, typer.Option("--max_shard_size", help="Largest weight file.")] = "5GB",
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
        dry_run=dry_run,
    )
    state = "would be written" if dry_run else "written"
    emit(manifest, [f"{state}: {output} ({manifest['label']})"], as_json=as_json, quiet=quiet)
