"""Measurements of how a model uses its depth: one file per family of measurements, one result type.

    analysis = analyze(model, {"general": domain})
    analysis["output_effect/dnll"]          # [L] nats per token, with .lo and .hi

Nothing heavy is imported before `analyze` is called.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from prune.analysis.processes import Processes
    from prune.analysis.result import Analysis
    from prune.analysis.streamed import Streaming
    from prune.data.domains import Domain


def analyze(
    model: PreTrainedModel,
    domains: Mapping[str, Domain],
    *,
    seed: int = 0,
    pad_token_id: int = 0,
    source: str = "",
    processes: Processes | None = None,
    streaming: Streaming | None = None,
    **settings: Any,
) -> Analysis:
    """Measure a model on documents of one or more domains.

    Args:
        model: a causal language model in eval mode.
        domains: name -> documents.
        seed: of the resampling; the same seed gives the same result to the bit.
        pad_token_id: fills short rows.
        source: name of the model in the result.
        processes: from `prune.analysis.processes.join`: batches are dealt out among them and each returns the result
            of all; one process if None.
        streaming: walk `streaming.model` (whose `model` must be `model`) layer by layer; in memory if None.
        settings: fields of `prune.analysis.settings.AnalyzeSettings`; `bootstrap` may be 0 here.

    Returns:
        Arrays under the keys and in the shapes of README.md, with intervals, overall and per domain.

    Raises:
        UsageError: unknown measure or first-token rule, or no domains.
        PruneError: the model gives non-finite values, or its layers cannot be run one by one.
    """
    from prune.analysis.processes import ALONE
    from prune.analysis.run import Options, run_analysis
    from prune.settings import validated

    options = validated(Options, {**settings, "seed": seed, "pad_token_id": pad_token_id})
    return run_analysis(model, domains, options, source=source, processes=processes or ALONE, streaming=streaming)
