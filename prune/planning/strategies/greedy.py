"""Remove the cheapest layer, score the others again on what is left, and so on (SLEB), each round a race (`race`).

For a quarter of the layers it takes --search_effort of the layer evaluations of full passes, the clean pass and the
answer's score on all documents included; further rounds take the same share of theirs. Where one depth is wanted, what
the rounds left is spent on exchanges (`exchange`). Where several are, one search gives every depth on its way, and how
much a round may take does not depend on how many follow: the plans nest. Costs on the way are estimates from the
documents that decided. A criterion that cannot say what single documents cost is searched in full.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from prune.planning import exchange
from prune.planning.paired import CONFIDENCE, Costs, Documents, Look
from prune.planning.race import Outcome, Race, Round
from prune.planning.registry import Keep, Problem, Step, Strategy
from prune.planning.strategies import greedy_full

log = logging.getLogger(__name__)

EXCHANGES = 0.25  # of what the first round leaves; an eighth of that bought two or three plans of SmolLM2
FIRST_SHARE = 0.5  # of a quarter's purse: later rounds start from what the first learnt
SHALLOW = 16  # models of fewer layers get a pass a round, whatever share of the naive count that is


def search(problem: Problem) -> Iterator[Step]:
    if problem.documents is None:
        yield from greedy_full.search(problem)
        return
    found = Search(problem, problem.documents())
    while len(found.order) < problem.removals[-1]:
        found.remove()
        if found.ends():
            found.exchange()
        yield found.step()


@dataclass
class Search:
    """Removals so far.

    Attributes:
        problem: what is searched.
        documents: the costs.
        order: what goes.
        outcomes: of the rounds.
        looks: documents that each was decided on.
        checked: what the exchanges came to.
        kept: of the purse, for the exchanges.
        spent: layer evaluations so far, as modelled, in units of one layer over one document.
    """

    problem: Problem
    documents: Documents
    order: Keep = ()
    outcomes: list[Outcome] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)
    checked: exchange.Checked | None = None
    kept: float = 0.0

    def __post_init__(self) -> None:
        self.race = Race(self.documents.ground)
        self.spent = float(self.problem.num_layers * self.documents.ground.size)  # the clean pass

    def remove(self) -> None:
        """Race for the next layer."""
        outcome = self.race.run(self._round())
        self.order = (*self.order, outcome.layer)
        self.outcomes.append(outcome)
        self.looks.append(outcome.look)
        self.spent += outcome.spent
        log.info(
            "removal %d of at most %d: layer %d, of %d candidates scored, on %d of %d documents",
            len(self.order), self.problem.removals[-1], outcome.layer, outcome.scored, self._read(outcome.look),
            self.documents.ground.size,
        )  # fmt: skip

    def ends(self) -> bool:
        """Whether this is the one plan that is wanted."""
        worth, removals = self.problem.worth, self.problem.removals
        if worth is not None:
            return len(self.order) >= removals[0] and worth.in_all(self.order) >= worth.wanted
        return (len(self.order),) == removals

    def exchange(self) -> None:
        """Score what is nearly as good on all documents, with what is left of the purse."""
        self.checked = exchange.check(self.problem, self.documents, self.order, self.race.rounds, self._left())
        self.order = self.checked.order
        for each in self.checked.done:
            log.info("layer %d stays, layer %d goes instead", each.back, each.out)

    def step(self) -> Step:
        """The answer so far."""
        rounds = self.outcomes
        notes: dict[str, Any] = {
            "documents": [self._read(outcome.look) for outcome in rounds],
            "candidates": [outcome.scored for outcome in rounds],
            "regret": [outcome.regret for outcome in rounds],
            "confidence": CONFIDENCE,
        }
        if self.checked is not None:
            notes["plans_checked"] = self.checked.tried
            notes["exchanges"] = [[each.back, each.out] for each in self.checked.done]
        trail = () if notes.get("exchanges") else tuple(outcome.cost for outcome in rounds)
        cost = self.outcomes[-1].cost if self.checked is None else self.checked.cost
        return Step(self.order, cost, trail, estimated=notes)

    def _read(self, look: Look) -> int:
        return sum(self.documents.ground.documents(look))

    def _round(self) -> Round:
        """The choice of the next layer."""
        order, problem = self.order, self.problem
        trunk = problem.without(order)

        def behind(layer: int) -> int:
            return sum(other > layer for other in trunk)

        def own(domain: int, level: int) -> int:
            """The last round left the states before its removal; documents that it did not see have none."""
            if not order:
                return 0
            return behind(order[-1] if self.looks[-1][domain] >= level else min(order))

        def sample(candidates: Sequence[int], look: Look) -> tuple[Costs, Sequence[Costs]]:
            subsets = [trunk, *(tuple(other for other in trunk if other != layer) for layer in candidates)]
            common, *costs = self.documents.scores(subsets, look)
            return common, costs

        free = [layer for layer in trunk if layer not in problem.protected and problem.may_go(layer, order)]
        candidates = [layer for layer in free if problem.gives(layer, order) > 0] or free
        return Round(candidates, sample, behind, own, self._purse(), lambda layer: problem.gives(layer, order))

    def _purse(self) -> float:
        """Layer evaluations that the next round may take.

        Of a quarter's: the first half; a quarter of what it leaves is kept for the exchanges, the others share the
        rest alike.
        """
        depth, number, removed = self.problem.num_layers, self.documents.ground.size, len(self.order)
        quarter = max(1, depth // 4)
        if removed >= quarter:
            return number * self.problem.tuning.search_effort * self.problem.naive_round(removed)
        if removed == 0:
            purse = FIRST_SHARE * self._left()
        else:
            self.kept = self.kept or EXCHANGES * self._left()
            purse = (self._left() - self.kept) / (quarter - removed)
        return max(purse, number * depth if depth < SHALLOW else 0)

    def _left(self) -> float:
        """What is left of a quarter's purse, less the answer's score on all documents; of a deeper cut's, its own."""
        problem, depth, number = self.problem, self.problem.num_layers, self.documents.ground.size
        count = max(1, depth // 4, len(self.order))
        naive = depth + sum(map(problem.naive_round, range(count)))
        answer = depth - count - min(self.order, default=count)
        return number * (problem.tuning.search_effort * naive - answer) - self.spent


STRATEGY = Strategy("the cheapest layer goes, the rest is scored again, on as few documents as it takes", search)
