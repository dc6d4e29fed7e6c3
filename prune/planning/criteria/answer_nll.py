"""Teacher-forced answer NLL: ΔNLL of the completions, given their prompts; documents without a prompt do not count.

`dnll` counts the text of plain documents beside the answers; this criterion asks only what the model replies.
"""

from __future__ import annotations

from collections.abc import Sequence

from prune.planning.context import Context
from prune.planning.paired import Documents
from prune.planning.registry import Criterion, Keep


def layer_scores(context: Context, removals: int) -> Sequence[float]:
    return subset_costs(context, context.singles)


def subset_costs(context: Context, keeps: Sequence[Keep]) -> list[float]:
    return [score.total for score in context.scores(keeps, answers=True)]


def documents(context: Context) -> Documents:
    return context.documents(answers=True)


CRITERION = Criterion(
    "rise of the NLL of the answers alone, given their prompts",
    layer_scores,
    subset_costs,
    documents=documents,
    apart=True,
)
