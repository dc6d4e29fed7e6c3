"""Mean norm of what a layer adds over the norm of the stream it reads (the paper's figure 2)."""

from __future__ import annotations

from collections.abc import Sequence

from prune.planning.context import Context
from prune.planning.registry import Criterion


def layer_scores(context: Context, removals: int) -> Sequence[float]:
    return context.unit_measures("relative_contribution/layer", "relative_contribution/{}")


CRITERION = Criterion(
    "norm of what the layer adds over the norm of the stream", layer_scores, measured=True, apart=True
)
