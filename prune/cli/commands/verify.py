"""`prune verify`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from prune.api._verify import VerifyArguments
from prune.cli.flags import Json, Quiet, with_settings
from prune.cli.show import emit


def verify(
    directory: Annotated[
        str, typer.Argument(metavar="CHECKPOINT", help="What `prune export` or `prune cut` wrote; or its hub id.")
    ],
    as_json: Json = False,
    quiet: Quiet = False,
    **settings: Any,
) -> None:
    """Re-check an exported checkpoint: hashes, loading, finite weights, recorded logits."""
    from prune import api

    result = api.verify(directory, **settings)
    if "proved_when_cut" in result:
        proof = "proved" if result["proved_when_cut"] else "cut with --no_verify, not proved"
        counts = f"{result['files']} files ({result['hashed']} hashed), {result['tensors']} tensors"
        line = f"{directory}: {counts}, loads with finite weights: all as cut ({proof})"
    else:
        counts = f"{result['files']} files, {result['tensors']} tensors"
        line = f"{directory}: {counts}, recorded logits replayed: all as exported"
    from prune.serving.check import in_words

    emit(result, [line, *in_words(result["runtimes"])], as_json=as_json, quiet=quiet)


command = with_settings(VerifyArguments)(verify)
