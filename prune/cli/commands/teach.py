"""`prune teach`."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from prune.api._teach import TeachArguments
from prune.cli.flags import DataFlag, DryRun, Json, Model, Output, Quiet, with_settings
from prune.cli.show import emit


def teach(
    model: Model,
    output: Output,
    data: DataFlag,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what a killed run left.")] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
    **settings: Any,
) -> None:
    """Write down what the original predicts on the training data, so that `prune heal --targets` needs no original."""
    from prune import api

    record = api.teach(model, output, data=data, resume=resume, dry_run=dry_run, **settings)
    counts = f"{record['tokens']:,} tokens of {', '.join(record['data'])}"
    size = f"{record['bytes'] / 1e6:,.1f} MB, {record['bytes_per_token']:.0f} bytes a token"
    if dry_run:
        why = "all documents were tokenised: the size hangs on each"
        emit(record, [f"would write {counts}: {size}", why], as_json=as_json, quiet=quiet)
    elif os.environ.get("RANK", "0") == "0":  # one voice under torchrun
        kept = f"the {record['top_k']} kept tokens hold" if record["top_k"] else "all tokens were kept: they hold"
        line = f"written: {output}; {counts}: {size}; {kept} {record['mass']:.2%} of the probability"
        emit(record, [f"{line}; {record['seconds']:.0f} s"], as_json=as_json, quiet=quiet)


command = with_settings(TeachArguments)(teach)
