"""`prune verify`."""

from __future__ import annotations

from typing import Annotated

import typer

from prune.cli.flags import AllowLinks, Json, Quiet, RemoteCode, Revision
from prune.cli.show import emit


def command(
    directory: Annotated[
        str, typer.Argument(metavar="CHECKPOINT", help="What `prune export` or `prune cut` wrote; or its hub id.")
    ],
    revision: Revision = None,
    trust_remote_code: RemoteCode = False,
    allow_links: AllowLinks = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Re-check an exported checkpoint: hashes, loading, finite weights, recorded logits."""
    from prune import api

    result = api.verify(directory, revision=revision, trust_remote_code=trust_remote_code, allow_links=allow_links)
    if "proved_when_cut" in result:
        proof = "proved" if result["proved_when_cut"] else "cut with --no_verify, not proved"
        counts = f"{result['files']} files ({result['hashed']} hashed), {result['tensors']} tensors"
        line = f"{directory}: {counts}, loads with finite weights: all as cut ({proof})"
    else:
        counts = f"{result['files']} files, {result['tensors']} tensors"
        line = f"{directory}: {counts}, recorded logits replayed: all as exported"
    emit(result, [line], as_json=as_json, quiet=quiet)
