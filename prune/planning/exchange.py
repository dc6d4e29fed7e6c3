"""The end of a raced search: a removed layer for a kept one, judged on all documents.

A round that ended with two removals nearly tied may have taken the wrong one: some documents were not read, and heavy
tails hide from small samples. What is left of the purse goes to complete plans in which a removal is exchanged for one
that its round found little worse. They are scored on all documents, so that nothing is left to chance, and they share
most of their prefix with the plan, so that they cost little.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prune.planning.paired import Ground, difference
from prune.planning.race import HEAD, Seen
from prune.planning.registry import Keep, Problem

LEAST = 1e-5  # nats per token: smaller gaps count as this one


@dataclass(frozen=True)
class Exchange:
    """A removed layer for a kept one.

    Attributes:
        back: the removed layer that stays.
        out: the kept one that goes.
        dearer: by how much the second cost more in the last round that scored both, in nats per token.
    """

    back: int
    out: int
    dearer: float


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


def check(problem: Problem, ground: Ground, order: Keep, rounds: Sequence[Mapping[int, Seen]], purse: float) -> Checked:
    """Make exchanges as long as one helps and the purse lasts.

    Args:
        problem: the search.
        ground: the documents.
        order: what the rounds removed.
        rounds: what each learnt of its candidates.
        purse: layer evaluations that this may take beside the plan's own score.
    """
    candidates = _candidates(problem, ground, order, rounds)
    alone = {layer: seen.value for learnt in rounds for layer, seen in learnt.items()}  # in the last round of each
    done: list[Exchange] = []
    known: dict[frozenset[int], float] = {}
    while True:
        some, price = [], 0.0
        able: dict[Exchange, Keep] = {}
        for each in candidates:
            if each.back in order and each.out not in order:
                new = problem.exchanged(order, each.back, each.out)
                able |= {each: new} if new is not None else {}

        def rank(each: Exchange, order: Keep = order, able: Mapping[Exchange, Keep] = able) -> tuple[float, int, int]:
            promise = max(_change(each, order, able[each], alone), LEAST)
            return promise * _layers(problem, order, able[each]), each.back, each.out

        for exchange in sorted(able, key=rank):
            more = ground.size * _layers(problem, order, able[exchange], alone=bool(known))
            if frozenset(able[exchange]) not in known and price + more <= purse:
                some.append(exchange)
                price += more
        plans = [order, *(able[exchange] for exchange in some)]
        costs = problem.costs([problem.without(plan) for plan in plans])
        known |= {frozenset(plan): cost for plan, cost in zip(plans, costs, strict=True)}
        purse -= price
        best = min(range(len(plans)), key=lambda at: (costs[at], at))
        if not some:
            return Checked(order, costs[0], done, len(known) - 1)
        if best:
            order = plans[best]
            done.append(some[best - 1])


def _candidates(problem: Problem, ground: Ground, order: Keep, rounds: Sequence[Mapping[int, Seen]]) -> list[Exchange]:
    """Every exchange, by the last round that scored both layers."""
    found = []
    for back in order:
        for out in set(problem.removable) - set(order):
            both = next((seen for seen in reversed(rounds) if back in seen and out in seen), None)
            gap = math.inf if both is None else difference(ground, both[out].costs, both[back].costs).value
            if math.isfinite(gap):
                found.append(Exchange(back, out, gap))
    return found


def _change(exchange: Exchange, order: Keep, new: Keep, alone: Mapping[int, float]) -> float:
    """What an exchange is expected to add, or how far it is from adding nothing.

    The sign of a single difference says little: a round that came before other removals is only near, and one that read
    few documents may have missed what a few of them weigh. What also comes back since the budget does not need it says
    more: what it cost is saved.
    """
    spared = set(order) - set(new) - {exchange.back}
    return exchange.dearer - sum(alone[layer] for layer in spared) if spared else abs(exchange.dearer)


def _layers(problem: Problem, order: Keep, new: Keep, alone: bool = False) -> float:
    """Layers that a plan takes on a document: from where it leaves the plan at hand, or the full model."""
    start = min(new) if alone else min(set(order) ^ set(new))
    return HEAD + sum(layer > start for layer in problem.without(new))
