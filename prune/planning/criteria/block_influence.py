"""Block Influence: 1 - mean cosine of the stream before and after a layer (ShortGPT, eq. 1)."""

from __future__ import annotations

from collections.abc import Sequence

from prune.planning.context import Context
from prune.planning.registry import Criterion


def layer_scores(context: Context, removals: int) -> Sequence[float]:
    return context.measure("block_influence").tolist()


CRITERION = Criterion("1 - cosine of the stream before and after the layer (ShortGPT)", layer_scores, measured=True)
