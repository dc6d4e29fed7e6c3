"""What a round of speculative decoding costs in a runtime, in steps of the original: measured, not assumed.

The formula of Leviathan et al. takes a checking pass for a step and the prompt's pass for nothing. On a CPU neither
holds. Two lengths of answer give both without looking inside a runtime: rounds are what the longer one adds.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from evals.speculation import Costs

LENGTHS = (8, 40)
"""New tokens of the two answers."""
PROPOSED = (2, 6)
"""γ at which rounds are timed; between and beyond, a line."""


@dataclass(frozen=True)
class Timing:
    """One answer: seconds, and passes of the original over more than the prompt or in all, but alike at any length."""

    seconds: float
    passes: int = 0


Answering = Callable[[Sequence[int], int], Timing]
"""(prompt, new tokens), ends of text ignored."""


def measure_costs(
    plain: Answering, assisted: Mapping[int, Answering], prompts: Sequence[Sequence[int]], draft_cost: float
) -> Costs:
    """Medians over prompts, every way of answering in turn at each.

    Args:
        assisted: for each γ of `PROPOSED`.
        draft_cost: c.
    """
    short, long = LENGTHS
    rounds: dict[int, list[float]] = {gamma: [] for gamma in assisted}
    starts: list[float] = []
    prefills: list[float] = []
    for number, prompt in enumerate([prompts[0], *prompts]):
        first, last = plain(prompt, short), plain(prompt, long)
        step = max(1e-9, last.seconds - first.seconds) / (long - short)
        found = {gamma: (work(prompt, short), work(prompt, long)) for gamma, work in assisted.items()}
        if number == 0:
            continue  # it warmed up
        prefills.append(max(0.0, first.seconds / step - short))
        for gamma, (begun, whole) in found.items():
            one = (whole.seconds - begun.seconds) / max(1, whole.passes - begun.passes) / step
            rounds[gamma].append(one)
            starts.append(max(0.0, begun.seconds / step - begun.passes * one))
    checks = {gamma: statistics.median(ratios) - gamma * draft_cost for gamma, ratios in rounds.items()}
    few, many = min(checks), max(checks)
    slope = max(0.0, (checks[many] - checks[few]) / (many - few)) if many > few else 0.0
    return Costs(
        draft=draft_cost,
        check=max(0.0, checks[few] - slope * few),
        check_per_token=slope,
        prefill=statistics.median(prefills),
        assisted_prefill=statistics.median(starts),
    )
