"""One round of a search decided on as few documents as it takes: racing (Maron and Moore 1994) with a purse.

Candidates are compared on the same documents, so that what makes a document hard cancels. All of them are scored on a
share of the documents; those that a paired interval shows to be worse than the leader leave, the others are scored on
more, from the domain whose documents tell most (Neyman's allocation). Where intervals decide nothing the purse does: it
pays for so many candidates at the next share, the cheapest so far (successive rejects, Audibert and Bubeck 2010). What
an earlier round learnt on more documents is carried over: the cost of a removal is then its old figure on those plus
the mean change since on these, a control variate. Later rounds score only the removals that were cheap before (CELF's
order, Leskovec et al. 2007), as far as the purse goes.

Assumption: documents are a random sample, and a share of them shows their spread. Answers of one token whose
likelihood seldom moves, but then much, violate it: intervals are then too short.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95  # of a round: Bonferroni over its candidates
SMALLEST_SHARE = 2  # documents of a domain: one has no spread
FIRST_LOOK = 0.2  # share of a later round's purse for the first look, which settles who is scored at all,
LEAST = 0.5  # but so many of the candidates are where the purse allows: layers change when their neighbours go
Look = tuple[int, ...]  # for each domain the level of its shares
Costs = Sequence[np.ndarray]  # for each domain [documents of a look]


@dataclass(frozen=True)
class Ground:
    """The documents that candidates race over.

    Attributes:
        tokens: for each domain the counted tokens of each document, in the order in which looks take them.
        weights: of the domains, summing to one.
        shares: for each domain how many documents its levels hold, ascending; the last is all of them.
    """

    tokens: Sequence[np.ndarray]
    weights: Sequence[float]
    shares: Sequence[Sequence[int]]

    @property
    def first(self) -> Look:
        """The smallest share of every domain."""
        return (0,) * len(self.tokens)

    @property
    def size(self) -> int:
        """All documents."""
        return sum(map(len, self.tokens))

    def documents(self, look: Look) -> list[int]:
        """Of each domain."""
        return [shares[level] for shares, level in zip(self.shares, look, strict=True)]

    def deeper(self, look: Look, domain: int) -> Look:
        """With the next share of one domain."""
        return (*look[:domain], look[domain] + 1, *look[domain + 1 :])

    def open(self, look: Look) -> list[int]:
        """Domains that count and have documents left."""
        return [
            at
            for at, (level, shares) in enumerate(zip(look, self.shares, strict=True))
            if self.weights[at] and level + 1 < len(shares)
        ]


def nested_shares(size: int) -> list[int]:
    """Documents in 1/8, 1/4, 1/2 and all of a domain, two at least; equal shares stand once."""
    return sorted({min(size, max(SMALLEST_SHARE, -(-size // parts))) for parts in (8, 4, 2, 1)})


@dataclass(frozen=True)
class Estimate:
    """A mean over all documents, from some of them.

    Attributes:
        value: in nats per token, domains mixed.
        influence: what each document adds to its error, [documents of all domains]; the norm is the standard error,
            and that of a difference the standard error of the difference.
    """

    value: float
    influence: np.ndarray

    def __add__(self, other: Estimate) -> Estimate:
        return Estimate(self.value + other.value, self.influence + other.influence)

    def error_of_difference(self, other: Estimate) -> float:
        """Standard error of `self - other`, paired."""
        return float(np.linalg.norm(self.influence - other.influence))


def estimate(costs: Costs, ground: Ground) -> Estimate:
    """Weighted mean over domains of cost per token, a ratio estimator, with the finite-population correction.

    Args:
        costs: for each domain the sums [documents], the first ones of the ground's; infinite values make the estimate
            infinite.
    """
    value, influence = 0.0, [np.zeros(len(tokens)) for tokens in ground.tokens]
    for at, (sums, weight) in enumerate(zip(costs, ground.weights, strict=True)):
        if not weight:
            continue
        number, size = len(sums), len(ground.tokens[at])
        tokens = ground.tokens[at][:number]
        if not np.isfinite(sums).all():
            return Estimate(math.inf, np.concatenate(influence))
        ratio = sums.sum() / tokens.sum()
        value += weight * ratio
        if 1 < number < size:
            spread = math.sqrt((1 - number / size) * number / (number - 1))
            influence[at][:number] = weight * spread * (sums - ratio * tokens) / tokens.sum()
    return Estimate(float(value), np.concatenate(influence))


@dataclass
class Seen:
    """What is known of a removal: in its last round, and from what.

    Attributes:
        look: documents that it was scored on then.
        costs: for each domain what it added to the subset of that round [documents of the look].
        estimate: its mean, earlier rounds included.
        documents: that the estimate rests on.
    """

    look: Look
    costs: Costs
    estimate: Estimate
    documents: int


@dataclass(frozen=True)
class Outcome:
    """A decided round.

    Attributes:
        layer: the one that goes.
        cost: of the subset without it, estimated, in nats per token.
        documents: that the decision was made on.
        scored: candidates that were scored at all.
        regret: upper end of the confidence interval of what another choice would have saved, in nats per token; 0
            where every other choice was shown to be worse.
        spent: layer evaluations, in units of one layer over one document, as modelled.
    """

    layer: int
    cost: float
    documents: int
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
    """

    candidates: Sequence[int]
    sample: Callable[[Sequence[int], Look], tuple[Costs, Sequence[Costs]]]
    behind: Callable[[int], int]
    trunk: Callable[[int, int], int]
    purse: float


class Race:
    """Rounds over the same documents, each removal remembered from one to the next.

    Attributes:
        seen: removal -> what is known of it.
    """

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.seen: dict[int, Seen] = {}

    def run(self, given: Round) -> Outcome:
        """Find the removal that costs least; of equal ones the deepest."""
        ground, look = self.ground, self.ground.first
        before, now = dict(self.seen), dict[int, Seen]()
        left = list(given.candidates)
        fresh = dict(enumerate(ground.documents(look)))
        spent = sum(number * given.trunk(at, 0) for at, number in fresh.items())
        if before:
            left = self._likely(left, before, given, spent, sum(fresh.values()))
        spent += sum(fresh.values()) * sum(map(given.behind, left))
        base = self._score(given, left, look, before, now)
        while ground.open(look):
            left = self._contenders(left, now)
            if len(left) == 1:
                break
            at = self._widest(left, now, look)
            deeper = ground.deeper(look, at)
            number = ground.documents(deeper)[at] - ground.documents(look)[at]
            trunk = given.trunk(at, deeper[at])
            allowance = (given.purse - spent) / number - trunk
            left = _affordable(left, now, given.behind, allowance)
            if len(left) == 1:
                break
            look = deeper
            spent += number * (sum(map(given.behind, left)) + trunk)
            base = self._score(given, left, look, before, now)
        self.seen.update(now)
        best = min(left, key=lambda layer: (now[layer].estimate.value, -layer))
        return Outcome(
            layer=best,
            cost=base + now[best].estimate.value,
            documents=sum(ground.documents(look)),
            scored=len(now),
            regret=self._regret(best, given.candidates, before, now),
            spent=spent,
        )

    def _likely(
        self, left: Sequence[int], before: dict[int, Seen], given: Round, spent: float, fresh: int
    ) -> list[int]:
        """Whom a later round scores at all: the cheapest of the rounds before."""
        some = _affordable(left, before, given.behind, (FIRST_LOOK * given.purse - spent) / fresh)
        most = _affordable(left, before, given.behind, (given.purse - spent) / fresh)
        return most[: max(len(some), math.ceil(LEAST * len(left)))]

    def _widest(self, left: Sequence[int], now: dict[int, Seen], look: Look) -> int:
        """The domain whose documents do most for telling the leader from the others (Neyman's allocation)."""
        leader = now[min(left, key=lambda layer: (now[layer].estimate.value, -layer))].estimate
        ends = np.cumsum([0, *map(len, self.ground.tokens)])
        spread = sum(np.square(now[layer].estimate.influence - leader.influence) for layer in left)
        return max(
            self.ground.open(look),
            key=lambda at: np.sum(spread[ends[at] : ends[at + 1]]) / self.ground.documents(look)[at],
        )

    def _score(
        self, given: Round, left: Sequence[int], look: Look, before: dict[int, Seen], now: dict[int, Seen]
    ) -> float:
        """Note what `left` adds at this look; the cost of the round's subset."""
        trunk, costs = given.sample(left, look)
        for layer, cost in zip(left, costs, strict=True):
            added = [own - common for own, common in zip(cost, trunk, strict=True)]
            now[layer] = self._known(before.get(layer), added, look)
        return estimate(trunk, self.ground).value

    def _known(self, old: Seen | None, added: Costs, look: Look) -> Seen:
        """With the mean of `added`, or the old estimate plus the mean change where that rests on more documents.

        Which of the two has the smaller error is not asked: on few documents errors look small where tails are long.
        """
        number = sum(self.ground.documents(look))
        if old is None or old.documents <= number:
            return Seen(look, added, estimate(added, self.ground), number)
        pairs = [(new, past, min(len(new), len(past))) for new, past in zip(added, old.costs, strict=True)]
        change = estimate([new[:n] - past[:n] for new, past, n in pairs], self.ground)
        return Seen(look, added, old.estimate + change, old.documents)

    def _contenders(self, left: Sequence[int], now: dict[int, Seen]) -> list[int]:
        """Those that are not shown to be worse than the leader."""
        leader = now[min(left, key=lambda layer: (now[layer].estimate.value, -layer))].estimate
        documents = sum(self.ground.documents(now[left[0]].look))
        limit = quantile(len(left), documents, len(self.ground.tokens))
        return [
            layer
            for layer in left
            if now[layer].estimate is leader
            or now[layer].estimate.value - leader.value <= limit * now[layer].estimate.error_of_difference(leader)
        ]

    def _regret(self, best: int, candidates: Sequence[int], before: dict[int, Seen], now: dict[int, Seen]) -> float:
        """What the best of the others may have saved; candidates that were not scored drift as the scored ones did."""
        moved = [seen.estimate.value - before[layer].estimate.value for layer, seen in now.items() if layer in before]
        drift, spread = (float(np.mean(moved)), float(np.std(moved))) if moved else (0.0, 0.0)
        chosen, worst = now[best].estimate, 0.0
        limit = quantile(len(candidates), sum(self.ground.documents(now[best].look)), len(self.ground.tokens))
        for layer in candidates:
            known = now.get(layer) or before.get(layer)
            if layer == best or known is None or not math.isfinite(known.estimate.value):
                continue
            value = known.estimate.value + (0.0 if layer in now else drift)
            error = math.hypot(known.estimate.error_of_difference(chosen), 0.0 if layer in now else spread)
            worst = max(worst, chosen.value - value + limit * error)
        return worst


def _affordable(
    left: Sequence[int], known: dict[int, Seen], behind: Callable[[int], int], allowance: float
) -> list[int]:
    """The cheapest so far, as many as the allowance pays for on one document; the first in any case."""

    def expected(layer: int) -> tuple[float, int]:
        return (known[layer].estimate.value if layer in known else -math.inf), -layer

    chosen: list[int] = []
    for layer in sorted(left, key=expected):
        allowance -= behind(layer)
        if chosen and allowance < 0:
            break
        chosen.append(layer)
    return chosen


def quantile(candidates: int, documents: int, domains: int) -> float:
    """One-sided t quantile for comparing one candidate with all the others."""
    from scipy.stats import t

    return float(t.ppf(1 - (1 - CONFIDENCE) / max(1, candidates - 1), max(1, documents - domains)))


@dataclass(frozen=True)
class Documents:
    """Costs by document, for searches that decide on some of them.

    Attributes:
        ground: tokens, weights and shares.
        scores: (subsets that stay, look) -> for each, and for each domain, the costs [documents of the look].
    """

    ground: Ground
    scores: Callable[[Sequence[tuple[int, ...]], Look], list[Costs]]
