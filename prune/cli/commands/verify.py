"""`prune verify`."""

from __future__ import annotations

from typing import Annotated

import typer

from prune.cli.flags import (
    Json,
    Quiet,
)
from prune.cli.show import emit


def command(
    directory: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="What `prune export` wrote.")],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Re-check an exported checkpoint: hashes, loading, finite weights, recorded logits."""
    from prune import api

    result = api.verify(directory)
    line = (
        f"{directory}: {result['files']} files, {result['tensors']} tensors, recorded logits replayed: all as exported"
    )
    emit(result, [line], as_json=as_json, quiet=quiet)
