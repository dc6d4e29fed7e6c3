"""One round of a search decided on as few documents as it takes: racing (Maron and Moore 1994) with a purse.

Candidates are compared in pairs on the same documents, so that what makes a document hard cancels. All of them are
scored on a small share of the documents; then, as long as the purse lasts, the next share of a domain goes to those
pairs of the leader and a challenger where a layer evaluation is expected to save most: the expected loss of stopping
now (Frazier et al. 2008, knowledge gradient) times the part of the variance that the documents take away, by what they
cost. Late layers are cheap, because the prefix is shared, so they are read far; early ones only where they may win.

What an earlier round learnt is carried over: where it compared two candidates on more documents, the difference of this
round is regressed on that one, a control variate. Later rounds first score the removals that were cheap before, and go
on while the next was cheaper then than the best is now (CELF's order, Leskovec et al. 2007).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from evals.progress import stage
from prune.planning.paired import Costs, Difference, Ground, Look, difference, quantile

LEAST = 0.3  # of a later round's candidates are scored: layers change when their neighbours go
FIRST_LOOK = 0.5  # of what these leave of the round's purse at most, for scoring more of them
HOPE = 2.0  # standard errors below its old cost that a candidate may have had, for CELF's rule
NEAR = 0.5  # pairs that promise so much of what the best promises are read together: they share prefixes
ENOUGH = 0.0005  # of what the subset costs: with less to lose from stopping, the rest of the purse is saved
CAUTION = 0.5  # standard errors that the leader may cost more than it seems: one that was read little is none by luck
HEAD = 0.3  # what reading a final stream takes, in layers: the last layer's removal is not free


@dataclass(frozen=True)
class Seen:
    """What a round learnt of a removal.

    Attributes:
        costs: for each domain what it added to the round's subset [documents that it was scored on].
        value: their mean over all documents, estimated, in nats per token.
        error: of the difference to the round's choice.
    """

    costs: Costs
    value: float
    error: float


@dataclass(frozen=True)
class Outcome:
    """A decided round.

    Attributes:
        layer: the one that goes.
        cost: of the subset without it, estimated, in nats per token.
        look: documents that the layer was scored on.
        scored: candidates that were scored at all.
        regret: upper end of the confidence interval of what another choice would have saved, in nats per token; 0
            where every other choice was shown to be worse.
        spent: layer evaluations, in units of one layer over one document, as modelled.
    """

    layer: int
    cost: float
    look: Look
    scored: int
    regret: float
    spent: float


@dataclass(frozen=True)
class Round:
    """What one removal is chosen from.

    Attributes:
        candidates: layers that may go.
        sample: (candidates, look) -> costs of the round's subset, and of that subset without each candidate.
        behind: candidate -> layers that its score takes on one document, the prefix being shared.
        trunk: (domain, level) -> layers that the round's subset itself takes on one document that the level adds.
        purse: layer evaluations that the round may take, in units of one layer over one document.
        gives: candidate -> what it gives towards the budget, above 0: which costs least for that is looked for.
    """

    candidates: Sequence[int]
    sample: Callable[[Sequence[int], Look], tuple[Costs, Sequence[Costs]]]
    behind: Callable[[int], int]
    trunk: Callable[[int, int], int]
    purse: float
    gives: Callable[[int], float] = lambda layer: 1.0


@dataclass(frozen=True)
class Reading:
    """A pair that may be read further.

    Attributes:
        rate: expected loss that a layer evaluation takes away, in nats per token.
        loss: of stopping now.
        layers: the ones of the pair that lack the share.
        domain: whose next share is read.
        level: of that share.
        price: in layer evaluations.
    """

    rate: float
    loss: float
    layers: tuple[int, ...]
    domain: int
    level: int
    price: float


class Race:
    """Rounds over the same documents, each removal remembered from one to the next.

    Attributes:
        seen: removal -> what its last round learnt of it.
        rounds: what each round learnt of its candidates.
    """

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.seen: dict[int, Seen] = {}
        self.rounds: list[dict[int, Seen]] = []

    def run(self, given: Round) -> Outcome:
        """Find the removal that costs least; of equal ones the deepest."""
        heat = Heat(self.ground, given, self.seen)
        with stage("race", math.ceil(given.purse), "layer evaluations") as racing:
            heat.start()
            while readings := heat.readings():
                racing.at(min(math.ceil(given.purse), round(heat.spent)), heat.words)
                heat.read(readings)
        outcome, learnt = heat.finish()
        self.seen = {**self.seen, **learnt}
        self.rounds.append(learnt)
        return outcome


class Heat:
    """A round under way.

    Attributes:
        looks: candidate -> documents that it was scored on.
        costs: candidate -> for each domain what it adds there.
        spent: layer evaluations so far, as modelled.
        left: the leader and those that may still be cheaper.
        share: candidate -> what it gives, over what the one that gives most does. Costs are compared over it, document
            by document, so that what makes a document hard still cancels.
    """

    def __init__(self, ground: Ground, given: Round, before: dict[int, Seen]) -> None:
        self.ground, self.given, self.before = ground, given, before
        self.looks: dict[int, Look] = {}
        self.costs: dict[int, Costs] = {}
        self.trunk: Costs = ()
        self.spent = 0.0
        self.left = len(given.candidates)
        most = max(map(given.gives, given.candidates))
        self.share = {layer: given.gives(layer) / most if most > 0 else 1.0 for layer in given.candidates}
        self._paid: set[tuple[int, int]] = set()  # (domain, level) that the round's own subset was run on

    def start(self) -> None:
        """Score the first share: all candidates in a first round, later those that were cheap before."""
        given, first = self.given, self.ground.first
        known = sorted((x for x in given.candidates if x in self.before), key=lambda x: (self._hoped(x), -x))
        number = max(2, math.ceil(LEAST * len(given.candidates)))
        self.score([*(x for x in given.candidates if x not in self.before), *known[:number]], first)
        most = self.spent + FIRST_LOOK * (given.purse - self.spent)
        for layer in known[number:]:
            if self._hoped(layer) >= min(self._drifted(x) for x in known if x in self.costs):
                break
            if self.spent + self._price(layer, first) <= most:  # late layers cost next to nothing
                self.score([layer], first)
        if min(map(self._mean, self.costs.values())) <= 0:  # what costs nothing goes first, whatever it gives
            self.share = dict.fromkeys(self.share, 1.0)

    def _hoped(self, layer: int) -> float:
        """What it may have added before, at best, for what it gives."""
        return (self.before[layer].value - HOPE * self.before[layer].error) / self.share[layer]

    def _drifted(self, layer: int) -> float:
        """What it added before, changed as it did since on the documents that it has now, for what it gives."""
        old = self.before[layer]
        return (old.value + difference(self.ground, self.costs[layer], old.costs).value) / self.share[layer]

    def _price(self, layer: int, look: Look) -> float:
        return sum(self.ground.documents(look)) * (self.given.behind(layer) + HEAD)

    def score(self, layers: Sequence[int], look: Look) -> None:
        """Score candidates at a look."""
        trunk, costs = self.given.sample(layers, look)
        numbers = self.ground.documents(look)
        for layer, cost in zip(layers, costs, strict=True):
            had = self.ground.documents(self.looks[layer]) if layer in self.looks else [0] * len(numbers)
            self.spent += sum(np.subtract(numbers, had)) * self.given.behind(layer)
            self.costs[layer] = [own - common for own, common in zip(cost, trunk, strict=True)]
            self.looks[layer] = look
        for at, level in enumerate(look):
            for each in {(at, each) for each in range(level + 1)} - self._paid:
                shares = self.ground.shares[at]
                added = shares[each[1]] - (shares[each[1] - 1] if each[1] else 0)
                self.spent += added * self.given.trunk(*each)
                self._paid.add(each)
        if sum(numbers) > sum(map(len, self.trunk)):
            self.trunk = trunk

    def gap(self, one: int, other: int) -> Difference:
        """What one candidate adds above another."""
        return self._difference(one, other, 1.0, 1.0)

    def priced(self, one: int, other: int) -> Difference:
        """The same, each for what it gives."""
        return self._difference(one, other, self.share[one], self.share[other])

    def _difference(self, one: int, other: int, first: float, second: float) -> Difference:
        def over(costs: Costs, share: float) -> Costs:
            return costs if share == 1 else [sums / share for sums in costs]

        before = None
        if one in self.before and other in self.before:
            before = over(self.before[one].costs, first), over(self.before[other].costs, second)
        return difference(self.ground, over(self.costs[one], first), over(self.costs[other], second), before)

    def leader(self) -> int:
        """The cheapest for what it gives, compared through the one that was read furthest; of equals the deepest."""
        finite = [x for x in self.costs if all(np.isfinite(sums).all() for sums in self.costs[x])]
        if not finite:
            return max(self.costs)
        furthest = max(finite, key=lambda x: (sum(self.ground.documents(self.looks[x])), x))

        def dearest(layer: int) -> float:
            gap = self.priced(layer, furthest)
            return gap.value + CAUTION * gap.error

        return min(self.costs, key=lambda x: (dearest(x) if x != furthest else 0.0, -x))

    @property
    def words(self) -> str:
        """How far the race is."""
        leader = self.leader()
        read = sum(self.ground.documents(self.looks[leader]))
        return f"{self.left} candidates left, {leader} ahead on {read} of {self.ground.size} documents"

    def readings(self) -> list[Reading]:
        """Pairs of the leader and a challenger that are worth reading further and can be paid for, the best first."""
        leader, self.left = self.leader(), 1
        enough = ENOUGH * abs(self._mean(self.trunk) + self._mean(self.costs[leader]))
        found: list[Reading] = []
        for challenger in self.costs:
            if challenger == leader:
                continue
            gap = self.priced(challenger, leader)
            loss = gap.loss
            if gap.error and loss > enough:
                self.left += 1
                found += self._of_pair(challenger, leader, gap, loss)
        return sorted(found, key=lambda reading: (-reading.rate, reading.layers))

    def _of_pair(self, challenger: int, leader: int, gap: Difference, loss: float) -> Iterable[Reading]:
        """The next share of each domain that the purse allows."""
        ground = self.ground
        for at, shares in enumerate(ground.shares):
            levels = {layer: self.looks[layer][at] for layer in (challenger, leader)}
            level = min(levels.values())
            if level + 1 == len(shares) or not gap.variances[at]:
                continue
            layers = tuple(layer for layer in (challenger, leader) if levels[layer] == level)
            added = shares[level + 1] - shares[level]
            price = added * sum(self.given.behind(layer) + HEAD for layer in layers)
            if self.spent + price <= self.given.purse:
                gain = gap.variances[at] / gap.variances.sum() * (1 - shares[level] / shares[level + 1])
                yield Reading(loss * gain / price, loss, layers, at, level + 1, price)

    def read(self, readings: Sequence[Reading]) -> None:
        """Read the best, and with it those of the same share that promise nearly as much."""
        best, price, looks = readings[0], 0.0, dict[int, Look]()
        for reading in readings:
            same = (reading.domain, reading.level) == (best.domain, best.level)
            if not same or reading.rate < NEAR * best.rate or self.spent + price + reading.price > self.given.purse:
                continue
            price += reading.price
            looks |= {layer: self.ground.deeper(self.looks[layer], reading.domain) for layer in reading.layers}
        for look in sorted(set(looks.values())):
            self.score([layer for layer in looks if looks[layer] == look], look)

    def _mean(self, costs: Costs) -> float:
        """In nats per token, over the documents at hand."""
        return difference(self.ground, costs, [np.zeros(len(sums)) for sums in costs]).value

    def finish(self) -> tuple[Outcome, dict[int, Seen]]:
        """The choice, and what the round learnt of each candidate."""
        leader = self.leader()
        value = self._mean(self.costs[leader])
        gaps = {layer: self.gap(layer, leader) for layer in self.costs if layer != leader}
        learnt = {layer: Seen(self.costs[layer], value + gap.value, gap.error) for layer, gap in gaps.items()}
        learnt[leader] = Seen(self.costs[leader], value, 0.0)
        outcome = Outcome(
            layer=leader,
            cost=self._mean(self.trunk) + value,
            look=self.looks[leader],
            scored=len(self.costs),
            regret=self._regret(leader, learnt),
            spent=self.spent,
        )
        return outcome, learnt

    def _regret(self, leader: int, learnt: dict[int, Seen]) -> float:
        """What the best of the others may have saved for what the choice gives.

        Candidates that were not scored drift as the scored ones did.
        """
        limit = quantile(len(self.given.candidates), sum(self.ground.documents(self.looks[leader])))
        moved = [learnt[x].value - self.before[x].value for x in learnt if x in self.before]
        moved = [float(x) for x in moved if math.isfinite(x)]
        drift, spread = (float(np.mean(moved)), float(np.std(moved))) if moved else (0.0, 0.0)
        gaps = [self.priced(layer, leader) for layer in self.costs if layer != leader]
        worst = max((limit * gap.error - gap.value for gap in gaps), default=0.0)
        for layer in set(self.given.candidates) - learnt.keys():
            own, share = self.before[layer].value + drift, self.share[layer]
            worst = max(worst, limit * spread / share - (own / share - learnt[leader].value / self.share[leader]))
        return max(0.0, worst * self.share[leader])
