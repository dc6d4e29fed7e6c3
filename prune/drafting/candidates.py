"""Which drafts are worth trying: the first layers and the last one or two, with what each costs and can give at most.

Assumption: what a step costs depends on which layers there are, not on their weights, so the cost is measured before
anything is trained.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from evals.speculation import Costs, needed_acceptance
from prune.checkpoint.layer_lists import complement
from prune.errors import UsageError
from prune.wording import Message, message

if TYPE_CHECKING:
    from prune.drafting.settings import DraftSettings

SHARES = (0.1, 0.2, 0.3, 0.4)
"""Of the original's layers, in the candidates that are tried unless the user names others."""


@dataclass
class Candidate:
    """A draft that was looked at.

    Attributes:
        keep: source index of each layer.
        cost, cost_lo, cost_hi: c, seconds of a step over those of a step of the original, with a 95 % interval.
        wanted: the speed-up that was asked for.
        acceptance: domain -> share of held-out answer tokens that the draft finds too, after the probe's training.
        num_assistant_tokens: γ, best for that acceptance and cost; None where it was skipped.
        expected: domain -> speed-up by its costs.
        rounds: what a checking pass and the prompt cost in the runtime; the formula's 1 and 0 where not measured.
    """

    keep: list[int]
    cost: float
    cost_lo: float
    cost_hi: float
    wanted: float
    acceptance: dict[str, float] | None = None
    num_assistant_tokens: int | None = None
    expected: dict[str, float] | None = None
    rounds: Costs | None = None

    @property
    def costs(self) -> Costs:
        """All that decoding with it takes."""
        return replace(self.rounds, draft=self.cost) if self.rounds else Costs(self.cost)

    @property
    def ceiling(self) -> float:
        """1/c, the speed-up of a draft that is never wrong."""
        return 1 / self.cost

    @property
    def skipped(self) -> bool:
        """Not even a draft that is never wrong would give the wanted speed-up."""
        return self.ceiling < self.wanted

    @property
    def worth(self) -> float:
        """Geometric mean of the expected speed-ups."""
        assert self.expected
        return math.exp(sum(map(math.log, self.expected.values())) / len(self.expected))

    def measured(self, acceptance: dict[str, float], tokens: int | None) -> None:
        """Take in what was found, and choose γ unless it is given."""
        self.acceptance = acceptance
        mean = sum(acceptance.values()) / len(acceptance)
        self.num_assistant_tokens = gamma = tokens or self.costs.best_tokens(mean)
        self.expected = {n: self.costs.speedup(a, gamma) for n, a in acceptance.items()}

    @property
    def outcome(self) -> Message:
        """One sentence."""
        facts: dict[str, Any] = {"layers": len(self.keep), "cost": self.cost, "ceiling": self.ceiling}
        if self.skipped:
            return message("draft_skipped", wanted=self.wanted, **facts)
        needed = needed_acceptance(self.cost, self.wanted)
        return message("draft_ceiling", wanted=self.wanted, needed=needed, **facts)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {**asdict(self), "ceiling": self.ceiling, "skipped": self.skipped}


def choose_layers(depth: int, settings: DraftSettings) -> list[list[int]]:
    """The layers of every candidate, shallowest first.

    Args:
        depth: layers of the original.

    Raises:
        UsageError: layers that the original lacks, no first layer, or as many as the original has, where the draft's
            weights are the original's.
    """
    whole = settings.runtime == "llama.cpp"  # in blocks all layers are a cheaper model too
    if settings.keep_layers:
        if whole and settings.keep_layers == list(range(depth)):
            return [settings.keep_layers]
        dropped = complement(settings.keep_layers, depth, "--keep_layers")
        keep = complement(dropped, depth, "--keep_layers")
        if keep[0] != 0 or len(keep) < 2:
            raise UsageError(f"--keep_layers {_text(keep)}: a draft needs layer 0 and one more: it shares the first")
        return [keep]
    sizes = settings.num_layers or sorted({max(2, math.ceil(share * depth)) for share in SHARES})
    for size in sizes:
        if size < 2:
            raise UsageError(f"--num_layers {size}: a draft has two layers at least, the first of them shared")
        if size > depth or (size == depth and not whole):
            raise UsageError(f"--num_layers: a draft of {size} layers is no shallower than the original's {depth}")
    return [first_and_last(size, depth) for size in sorted(set(sizes))]


def first_and_last(size: int, depth: int) -> list[int]:
    """`size` of `depth` layers: the last one (from four layers on the last two), and the first of all."""
    tail = 1 if size < 4 else 2
    return [*range(size - tail), *range(depth - tail, depth)]


def best(candidates: Sequence[Candidate]) -> int:
    """Place of the one with the largest expected speed-up; the shallower of equal ones."""
    tried = [i for i, c in enumerate(candidates) if c.expected]
    return max(tried, key=lambda i: (candidates[i].worth, -i))


def _text(layers: Sequence[int]) -> str:
    return ",".join(map(str, layers))
