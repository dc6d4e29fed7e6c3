"""`prune analyze`."""

from __future__ import annotations

from typing import Annotated

import typer

from prune.analysis.registry import GROUPS, MEASURES, STREAMED
from prune.cli.flags import (
    DataFlag,
    DryRun,
    Dtype,
    Json,
    Lang,
    Model,
    Output,
    Quiet,
    RemoteCode,
    Revision,
    Seed,
    split_names,
)
from prune.cli.show import emit, table
from prune.errors import UsageError

MEASURE_HELP = (
    f"Names or groups, with commas. Names: {', '.join(MEASURES)}. Groups: "
    + "; ".join(f"{name} = {', '.join(names)}" for name, names in GROUPS.items() if name != "all")
    + "; all. Absent: default, which costs half a pass a layer; see prune/analysis/README.md."
)
STREAM_HELP = (
    "Walk a model larger than memory layer by layer: every weight is read once for all documents, and one layer, the "
    f"embeddings and the activations are in memory. Offers {', '.join(STREAMED)}; refuses the other measures, which "
    "would read the weights many times. Same figures as without it."
)
STREAM_MEMORY_HELP = (
    "GiB of activations that --stream holds in memory; those beyond it lie in a hidden directory beside the output "
    "until the end (8 x layers x width bytes a token in float32, half as much again with dnll)."
)


def command(
    model: Model,
    output: Output,
    data: DataFlag,
    measure: Annotated[str | None, typer.Option("--measure", help=MEASURE_HELP)] = None,
    seq_length: Annotated[int, typer.Option("--seq_length", min=2, help="Longer documents are cut, in tokens.")] = 512,
    calib_num_samples: Annotated[
        int | None, typer.Option("--calib_num_samples", min=1, help="Documents per domain; all if absent.")
    ] = None,
    seed: Seed = 0,
    dtype: Dtype = "float32",
    batch_size: Annotated[int, typer.Option("--batch_size", min=1, help="Documents per forward pass.")] = 8,
    bootstrap: Annotated[int, typer.Option("--bootstrap", min=10, help="Resamples behind each interval.")] = 1000,
    first_token: Annotated[
        str,
        typer.Option("--first_token", help="drop: remove a layer everywhere; keep: never at position 0 (the paper)."),
    ] = "drop",
    swap_distances: Annotated[
        str, typer.Option("--swap_distances", help="For each k, swap exchanges layers l and l + k; with commas.")
    ] = "1",
    cuts: Annotated[
        int, typer.Option("--cuts", min=1, help="Positions per document at which future effects are measured.")
    ] = 3,
    revision: Revision = None,
    trust_remote_code: RemoteCode = False,
    stream: Annotated[bool, typer.Option("--stream", help=STREAM_HELP)] = False,
    stream_memory: Annotated[float, typer.Option("--stream_memory", min=0.0, help=STREAM_MEMORY_HELP)] = 4.0,
    lang: Lang = "en",
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure how a model uses its depth."""
    from prune import api

    result = api.analyze(
        model,
        output,
        data=data,
        measure=split_names(measure),
        seq_length=seq_length,
        calib_num_samples=calib_num_samples,
        seed=seed,
        dtype=dtype,
        batch_size=batch_size,
        bootstrap=bootstrap,
        first_token=first_token,
        swap_distances=_distances(swap_distances),
        cuts=cuts,
        revision=revision,
        trust_remote_code=trust_remote_code,
        stream=stream,
        stream_memory=stream_memory,
        lang=lang,
        dry_run=dry_run,
    )
    if isinstance(result, dict):
        emit(result, [f"would analyze {model} on {', '.join(result['data'])}"], as_json=as_json, quiet=quiet)
        return
    if as_json:
        emit(result.info, [], as_json=True, quiet=quiet)
        return
    columns = {
        "Block Influence": "block_influence",
        "contribution": "relative_contribution/layer",
        "cosine": "contribution_cosine/layer",
        "ΔNLL without it": "output_effect/dnll",
    }
    shown = {title: result[key] for title, key in columns.items() if key in result.measurements}
    rows = [[i, *(f"{values[i]:.4f}" for values in shown.values())] for i in range(result.num_layers)]
    table(f"{model}", ["layer", *shown], rows, quiet=quiet)
    emit({}, [f"written: {output} (open analysis.html)"], as_json=False, quiet=quiet)


def _distances(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--swap_distances {text!r}: give whole numbers with commas, such as 1,2,4") from None
