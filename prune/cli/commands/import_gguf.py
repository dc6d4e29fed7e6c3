"""`prune import`."""

from __future__ import annotations

from typing import Annotated

import typer

from prune.cli.flags import DryRun, Json, Output, Quiet
from prune.cli.show import emit, listed


def command(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A .gguf file; of a split model, its first part.")],
    output: Output,
    dtype: Annotated[str, typer.Option("--dtype", help="Of the weights: bfloat16, float16, float32.")] = "bfloat16",
    max_shard_size: Annotated[str, typer.Option("--max_shard_size", help="Largest weight file.")] = "5GB",
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Turn a GGUF file into a transformers checkpoint."""
    from prune import api

    result = api.import_gguf(file, output, dtype=dtype, max_shard_size=max_shard_size, dry_run=dry_run)
    types = listed(f"{count} {name}" for name, count in result.quantization.items())
    state = "would write" if dry_run else "written and verified"
    lines = [f"{state}: {output}, {result.architecture}, {result.num_layers} layers in {result.dtype} (from {types})"]
    if result.not_read:
        lines.append(f"transformers has no place for, and runs without: {listed(result.not_read)}")
    emit(result.as_dict(), lines, as_json=as_json, quiet=quiet)
