"""Generated answers that the original hardly ever gets right: there the gate cannot decide, and likelihood can.

Assumption: which tasks are mathematics is told by their names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from evals.paired import Pairs
from evals.records import TaskResult
from evals.suite import TaskSpec

NEAR = 0.1
"""Above chance, as a share of the items: an ability so small that its loss shows in few of them."""
MATHEMATICS = r"gsm|math|asdiv|svamp|aime|arithmetic"
LIKELIHOOD_SUITE = "worked_answers"


def near_chance(specs: Sequence[TaskSpec], originals: Mapping[str, TaskResult], paired: Mapping[str, Pairs]) -> str:
    """One line where the original generates near chance on some of these tasks; empty where it does on none.

    Args:
        specs: tasks that count.
        originals: the original's results by `TaskSpec.key`.
        paired: its scores beside the candidate's, likewise.
    """
    low = {
        spec: pairs.values()[0]
        for spec in specs
        if (pairs := paired.get(spec.key)) is not None and _is_low(spec, originals[spec.key], pairs)
    }
    if not low:
        return ""
    scores = ", ".join(f"{spec.key} {score:.1%}" for spec, score in low.items())
    said = f"the original generates near chance ({scores}), where accuracy decides little"
    if any(re.search(MATHEMATICS, spec.task) for spec in low):
        said += f": judge suite {LIKELIHOOD_SUITE}, the likelihood of worked answers, in its place"
    return said


def _is_low(spec: TaskSpec, original: TaskResult, pairs: Pairs) -> bool:
    generated = original.stats.get("output_type") == "generate_until"
    return generated and pairs.higher_is_better and pairs.values()[0] - spec.chance < NEAR
