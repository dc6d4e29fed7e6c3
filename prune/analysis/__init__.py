"""Measurements of how a model uses its depth: one file per family of measurements, one result type.

    analysis = analyze(model, {"general": domain})
    analysis["output_effect/dnll"]          # [L] nats per token, with .lo and .hi

Nothing heavy is imported before `analyze` is called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from prune.analysis.processes import Processes
    from prune.analysis.result import Analysis
    from prune.analysis.streamed import Streaming
    from prune.data.domains import Domain

DEFAULT_MEASURES = ("default",)
"""The group of measures that are cheap: one clean pass, and half a pass a layer for the removals."""


def analyze(
    model: PreTrainedModel,
    domains: Mapping[str, Domain],
    *,
    measures: Sequence[str] | None = None,
    batch_size: int = 8,
    seed: int = 0,
    first_token: str = "drop",
    swap_distances: Sequence[int] = (1,),
    cuts: int = 3,
    bootstrap: int = 1000,
    pad_token_id: int = 0,
    source: str = "",
    progress: Callable[[int, int], None] | None = None,
    processes: Processes | None = None,
    streaming: Streaming | None = None,
) -> Analysis:
    """Measure a model on documents of one or more domains.

    Args:
        model: a causal language model in eval mode.
        domains: name -> documents.
        measures: names of `prune.analysis.registry.MEASURES`, or of its `GROUPS`; `DEFAULT_MEASURES` if None.
        batch_size: documents per forward pass.
        seed: of the resampling; the same seed gives the same result to the bit.
        first_token: "drop" removes a layer at every position, "keep" never at position 0 (the paper's rule).
        swap_distances: layers l and l + k are exchanged for each k, where swaps are measured.
        cuts: positions t a document, where future effects are measured.
        bootstrap: resamples of documents behind each interval.
        source: name of the model in the result.
        progress: called with (documents done, documents in all).
        processes: from `prune.analysis.processes.join`: batches are dealt out among them and each returns the result
            of all; one process if None.
        streaming: walk `streaming.model` (whose `model` must be `model`) layer by layer; in memory if None.

    Returns:
        Arrays under the keys and in the shapes of README.md, with intervals, overall and per domain.

    Raises:
        UsageError: unknown measure or first-token rule, or no domains.
        PruneError: the model gives non-finite values, or its layers cannot be run one by one.
    """
    from prune.analysis.processes import ALONE
    from prune.analysis.run import Options, run_analysis

    options = Options(
        measures=tuple(DEFAULT_MEASURES if measures is None else measures),
        batch_size=batch_size,
        seed=seed,
        first_token=first_token,
        swap_distances=tuple(swap_distances),
        cuts=cuts,
        bootstrap=bootstrap,
        pad_token_id=pad_token_id,
    )
    return run_analysis(
        model, domains, options, source=source, progress=progress, processes=processes or ALONE, streaming=streaming
    )
