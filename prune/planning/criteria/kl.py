"""KL divergence of the next-token distribution from the full model's when layers are removed, nats per counted token.

A subset is run on the model; single layers come from the analysis where no evaluator was made for them.
"""

from __future__ import annotations

from collections.abc import Sequence

from prune.planning.context import Context
from prune.planning.paired import Documents
from prune.planning.registry import Criterion, Keep

KEYS = ("output_effect/kl", "output_effect/{}/kl")


def layer_scores(context: Context, removals: int) -> Sequence[float]:
    if context.evaluator is None and context.has_unit_measures(*KEYS):
        return context.unit_measures(*KEYS)
    return subset_costs(context, context.singles)


def subset_costs(context: Context, keeps: Sequence[Keep]) -> list[float]:
    return [score.total for score in context.scores(keeps, "kl")]


def documents(context: Context) -> Documents:
    return context.documents("kl")


CRITERION = Criterion(
    "KL of the next-token distribution from the full model's",
    layer_scores,
    subset_costs,
    documents=documents,
    apart=True,
)
