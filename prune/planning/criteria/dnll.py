"""ΔNLL: the rise of the negative log-likelihood of the documents' own tokens when layers are removed, nats per token.

For documents with a prompt only the answer's tokens count (teacher-forced answer NLL). A subset is run on the model;
single layers come from the analysis where no evaluator was made for them.
"""

from __future__ import annotations

from collections.abc import Sequence

from prune.planning.context import Context
from prune.planning.paired import Documents
from prune.planning.registry import Criterion, Keep

KEYS = ("output_effect/dnll", "output_effect/{}/dnll")


def layer_scores(context: Context, removals: int) -> Sequence[float]:
    if context.evaluator is None and context.has_unit_measures(*KEYS):
        return context.unit_measures(*KEYS)
    return subset_costs(context, context.singles)


def subset_costs(context: Context, keeps: Sequence[Keep]) -> list[float]:
    return [score.total for score in context.scores(keeps)]


def documents(context: Context) -> Documents:
    return context.documents()


CRITERION = Criterion(
    "rise of the NLL per token when the layers are removed (SLEB)",
    layer_scores,
    subset_costs,
    documents=documents,
    apart=True,
)
