"""What a suite lacks to carry a claim: tasks whose items are so few that a loss beyond the margin may hide in them.

Were the candidate as good on every item, the loss that cannot be excluded would still be that of a unit of which none
was seen: Clopper and Pearson's bound 1 - (alpha / 2)^(1 / units), all of it in one task. Units of unequal size count as
so many of the size that the gate allows for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from evals.paired import Pairs
from evals.retention import counted_units, ignorance


@dataclass(frozen=True)
class Shortfall:
    """A task that is too small.

    Attributes:
        name: of the task.
        items: that it has.
        units: independent ones of equal size that they count as.
        needed: items of this kind with which an equal candidate could begin to pass.
    """

    name: str
    items: int
    units: int
    needed: int

    def __str__(self) -> str:
        counted = "" if self.units == self.items else f", which count as {self.units} independent ones of equal size,"
        return (
            f"task {self.name}: a loss beyond the margin may hide beside its {self.items} items{counted} unseen; "
            f"a PASS takes about {self.needed} or more"
        )


def shortfalls(tasks: Sequence[Pairs], floor: float, alpha: float) -> list[Shortfall]:
    """Tasks of a suite in which, with nothing lost anywhere, the lower end would still miss the floor at this level."""
    found = []
    margin = math.fsum(_margin(pairs, floor) for pairs in tasks)  # of the sum over tasks
    for pairs in tasks:
        units = counted_units(pairs)
        bearable = margin / _drop(pairs, floor)  # share of this task's units that may be lost
        if margin <= 0 or bearable >= 1:
            continue
        needed = math.log(alpha / 2) / math.log1p(-bearable)
        if needed > units:
            found.append(Shortfall(pairs.name, pairs.n, round(units), math.ceil(pairs.n * needed / units)))
    return found


def _original(pairs: Pairs) -> float:
    """Mean score of the original, or its loss in nats per byte or word."""
    return abs(float(pairs.original.sum() / pairs.weight.sum()))


def _margin(pairs: Pairs, floor: float) -> float:
    """How far an equal candidate lies above the floor in one task."""
    if pairs.aggregation == "perplexity":
        return -math.log(floor)
    if not pairs.higher_is_better and not pairs.chance:
        return (1 - floor) * _original(pairs)
    return (1 - floor) * abs(_original(pairs) - pairs.chance)


def _drop(pairs: Pairs, floor: float) -> float:
    """How far a lost unit lies below an ordinary one that nothing was lost of."""
    if pairs.aggregation != "mean":
        worst = -ignorance(pairs, pairs.original) - _original(pairs)
        return worst if pairs.aggregation == "perplexity" else floor * worst
    best = max(1.0, float(pairs.original.max()))
    if not pairs.higher_is_better:
        return best
    # From candidate - floor x original at the mean, to 0 - floor x 1.
    return (1 - floor) * _original(pairs) + floor * best
