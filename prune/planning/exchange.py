"""The end of a raced search: a removed layer for a kept one, judged on all documents.

A round that ended with two removals nearly tied may have taken the wrong one: some documents were not read, and heavy
tails hide from small samples. What is left of the purse goes to complete plans in which a removal is exchanged for one
that its round found little worse. They are scored on all documents, so that nothing is left to chance, and they share
most of their prefix with the plan, so that they cost little.

What the rounds say of an exchange is often old: other layers went since. Where the purse pays for many plans, more of
them than it pays for are first read on the smallest share of the documents, which says what an exchange does now. That
only orders them; nothing is decided on it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np

from prune.planning.paired import Costs, Documents, difference
from prune.planning.prefix import longest_known, prefixes
from prune.planning.race import HEAD, Seen
from prune.planning.registry import Keep, Problem

LEAST = 1e-5  # nats per token: smaller gaps count as this one
MANY = 12  # whole plans that the purse pays for, from which on a first look at more is worth what it takes
GLANCES = 0.25  # of the purse at most, for first looks


@dataclass(frozen=True, eq=False)
class Exchange:
    """A removed layer for a kept one.

    Attributes:
        back: the removed layer that stays.
        out: the kept one that goes.
        before: by how much the second cost more in the last round that scored both, for each domain [documents].
        dearer: its mean, in nats per token.
    """

    back: int
    out: int
    before: Costs
    dearer: float


@dataclass(frozen=True)
class Checked:
    """What the exchanges came to.

    Attributes:
        order: what goes.
        cost: of the subset, on all documents.
        done: exchanges that were made.
        tried: plans that were scored on all documents.
    """

    order: Keep
    cost: float
    done: Sequence[Exchange]
    tried: int


def check(
    problem: Problem, documents: Documents, order: Keep, rounds: Sequence[Mapping[int, Seen]], purse: float
) -> Checked:
    """Make exchanges as long as one helps and the purse lasts.

    Args:
        problem: the search.
        documents: the costs by document.
        order: what the rounds removed.
        rounds: what each learnt of its candidates.
        purse: layer evaluations that this may take beside the plan's own score.
    """
    ending = Ending(problem, documents, rounds, order, purse)
    done: list[Exchange] = []
    while True:
        able = ending.able()
        ending.glance(able)
        best, any_read = ending.read(able)
        if not any_read:
            return Checked(ending.order, ending.known[frozenset(ending.order)], done, len(ending.known) - 1)
        if best is not None:
            ending.order = able[best]
            done.append(best)


class Ending:
    """Exchanges under way.

    Attributes:
        order: what goes.
        purse: layer evaluations left.
        known: removals -> cost on all documents.
        glanced: removals that were read on the first share.
    """

    def __init__(
        self, problem: Problem, documents: Documents, rounds: Sequence[Mapping[int, Seen]], order: Keep, purse: float
    ) -> None:
        self.problem, self.documents, self.ground = problem, documents, documents.ground
        self.order, self.purse = order, purse
        self.known: dict[frozenset[int], float] = {}
        self.glanced: set[frozenset[int]] = set()
        self._now: dict[Exchange, float] = {}  # what those that were glanced at added, in nats per token
        self._alone = {layer: seen.value for learnt in rounds for layer, seen in learnt.items()}  # in its last round
        self._all = _exchanges(problem, documents, order, rounds)

    def able(self) -> dict[Exchange, Keep]:
        """Exchanges that may still be made, and what goes then."""
        found = {}
        for each in self._all:
            if each.back in self.order and each.out not in self.order:
                new = self.problem.exchanged(self.order, each.back, each.out)
                if new is not None and frozenset(new) not in self.known:
                    found[each] = new
        return found

    def _ranked(self, able: Mapping[Exchange, Keep]) -> list[Exchange]:
        """The most promising for what they take first."""
        beside = self._at_hand(order=True)
        worth = {e: max(self._change(e, new), LEAST) * self.takes(new, beside) for e, new in able.items()}
        return sorted(able, key=lambda e: (worth[e], e.back, e.out))

    def _change(self, exchange: Exchange, new: Keep) -> float:
        """What an exchange adds now, where it was seen; else what it may add, or how far it is from adding nothing.

        The sign of a single old difference says little: a round that came before other removals is only near, and one
        that read few documents may have missed what a few of them weigh. What also comes back since the budget does not
        need it says more: what it cost is saved.
        """
        if exchange in self._now:
            return self._now[exchange]
        spared = set(self.order) - set(new) - {exchange.back}
        return exchange.dearer - sum(self._alone[x] for x in spared) if spared else abs(exchange.dearer)

    def takes(self, new: Keep, beside: Set[Keep]) -> float:
        """Layers that removals take on a document, when these beginnings of subsets are run anyway: they are free."""
        keep = self.problem.without(new)
        return HEAD + len(keep) - longest_known(keep, beside)

    def _at_hand(self, *, order: bool) -> set[Keep]:
        """Beginnings of the full model, and of the plan at hand."""
        found = prefixes(self.problem.full)
        return found | prefixes(self.problem.without(self.order)) if order else found

    def _buy(self, able: Mapping[Exchange, Keep], count: Mapping[Exchange, int], most: float) -> list[Exchange]:
        """Pay for the first, by rank, that `most` layer evaluations buy; `count`: documents that each is read on."""
        beside = self._at_hand(order=frozenset(self.order) not in self.known)  # whose scores are at hand is not run
        some, price = [], 0.0
        for each in self._ranked({each: able[each] for each in count}):
            more = count[each] * self.takes(able[each], beside)
            if price + more <= most:
                some.append(each)
                beside |= prefixes(self.problem.without(able[each]))
                price += more
        self.purse -= price
        return some

    def glance(self, able: Mapping[Exchange, Keep]) -> None:
        """Read those that come first on the first share, where the purse pays for many."""
        ground, new = self.ground, {each: gone for each, gone in able.items() if each not in self._now}
        beside = self._at_hand(order=True)
        whole = [ground.size * self.takes(gone, beside) for gone in able.values()]
        number = sum(ground.documents(ground.first))
        if not new or self.purse < MANY * float(np.mean(whole)) or number >= ground.size / 2:
            return
        some = self._buy(able, dict.fromkeys(new, number), GLANCES * self.purse)
        keeps = [self.problem.without(gone) for gone in (self.order, *(able[each] for each in some))]
        base, *costs = self.documents.scores(keeps, ground.first)
        for each, cost in zip(some, costs, strict=True):
            own = [one - other for one, other in zip(cost, base, strict=True)]
            gap = difference(ground, own, _none(own), (each.before, _none(each.before)))
            self._now[each] = gap.value
            self.glanced.add(frozenset(able[each]))

    def read(self, able: Mapping[Exchange, Keep]) -> tuple[Exchange | None, bool]:
        """Score those that come first on all documents: the one that is cheapest, if it is cheaper; whether any was."""
        ground = self.ground
        left = ground.size - sum(ground.documents(ground.first))
        count = {each: left if frozenset(gone) in self.glanced else ground.size for each, gone in able.items()}
        some = self._buy(able, count, self.purse)
        plans = [self.order, *(able[each] for each in some)]
        costs = self.problem.costs([self.problem.without(plan) for plan in plans])
        self.known |= {frozenset(plan): cost for plan, cost in zip(plans, costs, strict=True)}
        best = min(range(len(plans)), key=lambda at: (costs[at], at))
        return some[best - 1] if best else None, bool(some)


def _exchanges(
    problem: Problem, documents: Documents, order: Keep, rounds: Sequence[Mapping[int, Seen]]
) -> list[Exchange]:
    """Every exchange of layers that a round scored both, by the last one that did."""
    found = []
    for back in order:
        for out in set(problem.removable) - set(order):
            both = next((seen for seen in reversed(rounds) if back in seen and out in seen), None)
            if both is None:
                continue
            pairs = [
                (one[: len(other)], other[: len(one)])
                for one, other in zip(both[out].costs, both[back].costs, strict=True)
            ]
            with np.errstate(invalid="ignore"):
                before = [one - other for one, other in pairs]
            gap = difference(documents.ground, before, _none(before)).value
            if math.isfinite(gap):
                found.append(Exchange(back, out, before, gap))
    return found


def _none(costs: Costs) -> Costs:
    return [np.zeros(len(sums)) for sums in costs]
