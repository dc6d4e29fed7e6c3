"""The end of a raced search: a removed layer for a kept one, judged on all documents.

A round that ended with two removals nearly tied may have taken the wrong one: some documents were not read, and heavy
tails hide from small samples. What is left of the purse goes to complete plans in which a removal is exchanged for one
that its round found little worse. They contend with the plan on ever more documents, and only what is better on all of
them replaces it, so that nothing is left to chance; they share most of their prefix with it, so that they cost little.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evals.progress import Stage, stage
from prune.planning.paired import Documents, Ground, Look, difference, quantile
from prune.planning.race import HEAD, Seen
from prune.planning.registry import Keep, Problem

FIRST_LOOK = 0.5  # of the purse at most, for the first documents of all exchanges
LEAST = 1e-5  # nats per token: smaller gaps count as this one


@dataclass(frozen=True)
class Exchange:
    """A removed layer for a kept one.

    Attributes:
        back: the removed layer that stays.
        out: the kept one that goes.
        gap: by how much they differed in the last round that scored both, in nats per token. Its sign says little: a
            round that came before other removals is only near, and one that read few documents may have missed what
            a few of them weigh.
    """

    back: int
    out: int
    gap: float

    def of(self, order: Keep) -> Keep:
        """The removals after it; the new one stands last."""
        return (*(layer for layer in order if layer != self.back), self.out)


@dataclass(frozen=True)
class Checked:
    """What the exchanges came to.

    Attributes:
        order: what goes.
        cost: of the subset, on all documents.
        done: exchanges that were made.
        tried: plans that were scored.
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
    candidates = _candidates(problem, documents.ground, order, rounds)
    done: list[Exchange] = []
    tried = {frozenset(order)}
    while True:
        able = [each for each in candidates if each.back in order and each.out not in order]
        contest = Contest(problem, documents, order, purse, alone=len(tried) > 1)
        best = contest.best([each for each in able if frozenset(each.of(order)) not in tried])
        if not contest.tried:
            (cost,) = problem.costs([problem.without(order)])
            return Checked(order, cost, done, len(tried) - 1)
        tried |= {frozenset(each.of(order)) for each in contest.tried}
        purse -= contest.spent
        if best is not None:
            order = best.of(order)
            done.append(best)


class Contest:
    """Exchanges against the plan at hand: all on a few documents, those that may be better on more, the best on all.

    Attributes:
        tried: exchanges that were scored.
        spent: layer evaluations, as modelled.
    """

    def __init__(self, problem: Problem, documents: Documents, order: Keep, purse: float, *, alone: bool) -> None:
        self.problem, self.documents, self.order, self.purse = problem, documents, order, purse
        self.alone = alone
        self.tried: list[Exchange] = []
        self.spent = 0.0

    def best(self, able: Sequence[Exchange]) -> Exchange | None:
        """The exchange that saves most on all documents; None where none was shown to save anything."""
        ground = self.documents.ground
        look, last = ground.first, tuple(len(shares) - 1 for shares in ground.shares)
        left = self._first(able, sum(ground.documents(look)))
        self.tried = left
        with stage("exchanges", ground.size, "documents") as running:
            return self._decided(left, look, last, running)

    def _decided(self, left: list[Exchange], look: Look, last: Look, running: Stage) -> Exchange | None:
        ground = self.documents.ground
        while left:
            read = sum(ground.documents(look))
            running.at(read, f"{len(left)} of {len(self.tried)} left")
            keeps = [self.problem.without(order) for order in (self.order, *(each.of(self.order) for each in left))]
            own, *costs = self.documents.scores(keeps, look)
            gaps = {each: difference(ground, cost, own) for each, cost in zip(left, costs, strict=True)}
            left.sort(key=lambda each: (gaps[each].value, each.back, each.out))
            if look == last:
                return left[0] if gaps[left[0]].value < 0 else None
            limit = quantile(len(left), read)
            look = tuple(min(level + 1, most) for level, most in zip(look, last, strict=True))
            hopeful = [each for each in left if gaps[each].value <= limit * gaps[each].error]
            left = self._paid(hopeful, read, sum(ground.documents(look)))
        return None

    def _first(self, able: Sequence[Exchange], number: int) -> list[Exchange]:
        """Those that promise most for what they cost, as many as a part of the purse pays for."""
        some: list[Exchange] = []
        for each in sorted(able, key=lambda x: (max(x.gap, LEAST) * self._layers(x), x.back, x.out)):
            whole, price = self.documents.ground.size * self._layers(each), number * self._layers(each)
            if whole <= self.purse and (not some or self.spent + price <= FIRST_LOOK * self.purse):
                some.append(each)
                self.spent += price
        return some

    def _paid(self, ranked: Sequence[Exchange], read: int, number: int) -> list[Exchange]:
        """Those that can be read on, the best first, with enough left to read the best to the end."""
        some: list[Exchange] = []
        for each in ranked:
            price = (number - read) * self._layers(each)
            reserve = (self.documents.ground.size - number) * self._layers(ranked[0])
            if self.spent + price + reserve <= self.purse:
                some.append(each)
                self.spent += price
        return some

    def _layers(self, exchange: Exchange) -> float:
        """Layers that a plan takes on a document: from where it leaves the plan at hand, or the full model."""
        new = exchange.of(self.order)
        start = min(new) if self.alone else min(exchange.back, exchange.out)
        return HEAD + sum(layer > start for layer in self.problem.without(new))


def _candidates(problem: Problem, ground: Ground, order: Keep, rounds: Sequence[Mapping[int, Seen]]) -> list[Exchange]:
    """Every exchange, by the last round that scored both layers."""
    found = []
    for back in order:
        for out in set(problem.removable) - set(order):
            both = next((seen for seen in reversed(rounds) if back in seen and out in seen), None)
            gap = math.inf if both is None else difference(ground, both[out].costs, both[back].costs).value
            if math.isfinite(gap):
                found.append(Exchange(back, out, abs(gap)))
    return found
