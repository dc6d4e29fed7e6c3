"""The share of answers that are lost: documents with a prompt whose answer is no longer all likeliest tokens.

The cost is 1 - `output_effect/answer_accuracy`: in each domain the share of the documents with a prompt of which some
answer token is not the model's likeliest next token once the layers are gone; documents without a prompt do not count.
A subset is run on the model; single layers come from the analysis where no evaluator was made for them. Shares of few
documents are often equal, and between equal costs the later layer goes: use some hundred documents that the full model
answers, or `answer_nll`.
"""

from __future__ import annotations

from collections.abc import Sequence

from prune.planning.context import Context
from prune.planning.registry import Criterion, Keep

KEY = "output_effect/answer_accuracy"


def layer_scores(context: Context, removals: int) -> Sequence[float]:
    if context.evaluator is None and not context.units.apart and context.has_measure(KEY):
        return (1 - context.measure(KEY)).tolist()
    return subset_costs(context, context.singles)


def subset_costs(context: Context, keeps: Sequence[Keep]) -> list[float]:
    return [score.total for score in context.scores(keeps, "missed", answers=True)]


CRITERION = Criterion(
    "share of answers with a token that is no longer the likeliest", layer_scores, subset_costs, apart=True
)
