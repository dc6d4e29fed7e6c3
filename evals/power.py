"""Before anything runs: can a gate decide with the items it is given?

An equally good candidate must be able to pass, and one at chance to fail. The gate's own rule is put to experiments
drawn from expected accuracies and sizes (`chances.py`); nothing is loaded. Assumptions: an item's chances are the same
throughout its task; answers about one cluster are correlated by `CLUSTER_CORRELATION`; texts are of one length.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from evals.chances import EXPERIMENTS, Chances, Outcomes, chances, half_width
from evals.errors import EvalUsageError
from evals.paired import MOST_ITEMS
from evals.records import PERPLEXITIES
from evals.retention import TIMES_WORSE, document_mass
from evals.suite import Suite, TaskSpec

CLUSTER_CORRELATION = 0.5
"""Taken for the correlation of what happens to two items of one cluster; 0.1-0.3 is common, 1 the worst."""
WANTED = 0.8
"""How often an equal candidate should pass."""
TYPICAL_NATS = 3.0
"""Taken for the original's loss per word, where a perplexity counts (20 a word)."""
CLUSTERS_DRAWN = 20_000
SCORES = np.array([(1, 1), (1, 0), (0, 1), (0, 0)], dtype=float)
"""Of original and candidate: both right, lost, gained, both wrong."""


@dataclass(frozen=True)
class PowerCheck:
    """Whether a gate can decide anything with the items it is given.

    Attributes:
        n: items in the whole suite.
        units: independent ones among them; `n` where no task has clusters.
        half_width: expected half-width of the retention interval, from the estimate to its lower end.
        power: how often an equally good candidate passes (same accuracy, `discordant` of the answers different).
        can_pass: it does at least every second time.
        can_fail: a candidate at chance fails at least every second time.
        detectable: the largest retention that would be failed every second time; None where none would.
        items_needed: items of the suite at which an equal candidate passes four times in five, the smallest tasks
            filled up; 0 where no number in reach does.
        message: one line for people.
    """

    n: int
    units: int
    half_width: float
    power: float
    can_pass: bool
    can_fail: bool
    detectable: float | None
    items_needed: int
    message: str

    @property
    def decides(self) -> bool:
        """Whether the gate can both pass and fail."""
        return self.can_pass and self.can_fail


@dataclass(frozen=True)
class _Expected:
    """What is expected of a suite: `chances` of a candidate, given its retention and the items of each task."""

    suite: Suite
    original: dict[str, float]
    discordant: float
    alpha: float

    def at(self, retention: float, counts: Sequence[int], experiments: int = EXPERIMENTS) -> Chances:
        """Verdicts on a candidate that keeps this share, with so many items in each task."""
        return chances(*self._tasks(retention, counts), self.alpha, experiments)

    def half_width(self, counts: Sequence[int]) -> float:
        """Of an equal candidate's retention, from the estimate to its lower end."""
        return half_width(*self._tasks(1.0, counts), self.alpha) / self.above()

    def _tasks(self, retention: float, counts: Sequence[int]) -> tuple[list[Outcomes], list[int]]:
        units = [_units(spec, count) for spec, count in zip(self.suite.gated, counts, strict=True)]
        return [self._outcomes(spec, retention, n) for spec, n in zip(self.suite.gated, units, strict=True)], units

    def above(self) -> float:
        """Mean ability above chance, in the units of `Outcomes.value`; 1 where texts are measured by their loss."""
        gated = self.suite.gated
        if any(spec.metric in PERPLEXITIES for spec in gated):
            return 1.0
        return math.fsum(self.original[spec.key] - spec.chance for spec in gated) / len(gated)

    def _outcomes(self, spec: TaskSpec, retention: float, units: int) -> Outcomes:
        floor, d = self.suite.floor, self.discordant
        if spec.metric in PERPLEXITIES:
            return replace(_text_outcomes(spec, floor, retention, d), mass=document_mass(units, units, self.alpha))
        p, chance = self.original[spec.key], spec.chance
        q = chance + retention * (p - chance)
        lost = min(max(d, abs(p - q)) / 2 + (p - q) / 2, p, 1 - q)
        gained = lost - (p - q)
        shares = np.array([p - lost, lost, gained, 1 - p - gained]).clip(0)
        drawn, share = _cluster_means(tuple(shares / shares.sum()), max(1, round(spec.items_per_cluster)))

        def claim(x: np.ndarray) -> np.ndarray:
            return x[..., 1] - chance - floor * (x[..., 0] - chance)

        hurt, helped = claim(SCORES[1]), claim(SCORES[2])
        return Outcomes(claim(drawn), share, float(hurt), float(helped), (1 - p + q, p + 1 - q))


@cache
def _cluster_means(shares: tuple[float, ...], size: int) -> tuple[np.ndarray, np.ndarray]:
    """[k, 2] possible mean scores of a cluster of so many items, and [k] their shares."""
    if size == 1:
        return SCORES, np.array(shares)
    rng = np.random.default_rng(0)
    own, whole = rng.choice(4, (CLUSTERS_DRAWN, size), p=shares), rng.choice(4, (CLUSTERS_DRAWN, 1), p=shares)
    outcome = np.where(rng.random(own.shape) < math.sqrt(CLUSTER_CORRELATION), whole, own)
    found, counts = np.unique(SCORES[outcome].sum(1), axis=0, return_counts=True)
    return found / size, counts / CLUSTERS_DRAWN


def _text_outcomes(spec: TaskSpec, floor: float, retention: float, spread: float) -> Outcomes:
    """Of one text, the original's loss taken as 1: the candidate's is lognormal with this standard deviation."""
    from scipy.stats import norm

    ratio = np.exp(spread * norm.ppf((np.arange(20) + 0.5) / 20))
    share = np.full(20, 1 / 20)
    if PERPLEXITIES[spec.metric] == "bits_per_byte":
        other, room, weight = ratio / ratio.mean() / retention, 0.0, floor
    else:  # exp(loss - other loss) must reach the floor
        other, room, weight = (
            ratio / ratio.mean() - math.log(retention) / TYPICAL_NATS,
            -math.log(floor) / TYPICAL_NATS,
            1.0,
        )
    value = room + 1 - weight * other
    lost, gained = room + 1 - weight * TIMES_WORSE, room + TIMES_WORSE - weight * float(other.mean())
    return Outcomes(value, share, lost, gained, harm=(TIMES_WORSE - 1.0, TIMES_WORSE - 1.0))


def _units(spec: TaskSpec, count: int) -> int:
    return max(1, round(count / spec.items_per_cluster))


def power_check(
    suite: Suite,
    n: int | None,
    *,
    original: float | Mapping[str, float] = 0.7,
    discordant: float = 0.10,
    alpha: float = 0.05,
    suites: int = 1,
    sizes: Mapping[str, int] | None = None,
) -> PowerCheck:
    """Before anything runs: can this gate pass or fail with `limit=n`?

    Args:
        n: items a task (`limit`); None with `sizes` for whole tasks.
        original: expected accuracy of the original, one for all tasks or by task key.
        discordant: share of items on which the models differ although they are equally good. For perplexities and
            bits per byte, the standard deviation of the ratio of the two models' losses on a document; the original's
            loss is taken as a tenth of the worst possible.
        suites: number of suites judged together; the level is alpha / suites, Holm's hardest step.
        sizes: items each task has, by key; caps n.

    Raises:
        EvalUsageError: no items, or an original that is not above chance.
    """
    counts = [min(x for x in (n, (sizes or {}).get(spec.key)) if x) if n or sizes else 0 for spec in suite.gated]
    if not counts or min(counts) < 1:
        raise EvalUsageError(f"suite {suite.name}: at least one item a task is needed; give limit or sizes")
    accuracy = {s.key: original if isinstance(original, int | float) else original[s.key] for s in suite.gated}
    expected = _Expected(suite, accuracy, discordant, alpha / suites)
    if expected.above() <= 0:
        values = list(accuracy.values())
        raise EvalUsageError(f"suite {suite.name}: an original at {values} is not above chance; nothing to retain")
    power = expected.at(1.0, counts).passed
    detectable = _detectable(expected, counts)
    enough = _enough(expected, counts, power)
    check = PowerCheck(
        n=sum(counts),
        units=sum(_units(spec, count) for spec, count in zip(suite.gated, counts, strict=True)),
        half_width=expected.half_width(counts),
        power=power,
        can_pass=power >= 0.5,
        can_fail=detectable is not None,
        detectable=detectable,
        items_needed=sum(enough),
        message="",
    )
    return replace(check, message=_message(suite, counts, enough, check))


def _detectable(expected: _Expected, counts: Sequence[int]) -> float | None:
    """The largest retention that fails every second time, to half a hundredth."""
    low, high = 1e-3, min(1.0, expected.suite.floor)

    def fails(retention: float) -> bool:
        return expected.at(retention, counts, experiments=500).failed >= 0.5

    if not fails(low):
        return None
    while high - low > 5e-3:
        middle = (low + high) / 2
        low, high = (middle, high) if fails(middle) else (low, middle)
    return low


def _enough(expected: _Expected, counts: Sequence[int], power: float) -> list[int]:
    """Items of each task with which `WANTED` of the experiments pass: the smallest tasks filled up, or where these are
    enough, the largest cut; nothing where no number in reach is enough."""
    change = max if power < WANTED else min

    def sized(items: int) -> list[int]:
        return [change(count, items) for count in counts]

    def passes(items: int) -> bool:
        return expected.at(1.0, sized(items)).passed >= WANTED

    if expected.suite.floor >= 1:
        return []
    low, high = 1, min(counts)
    while not passes(high):
        low, high = high, 2 * high
        if high * len(counts) > MOST_ITEMS:
            return []
    while high - low > max(1, high // 100):
        middle = (low + high) // 2
        low, high = (low, middle) if passes(middle) else (middle, high)
    return sized(high)


def _message(suite: Suite, counts: Sequence[int], enough: Sequence[int], check: PowerCheck) -> str:
    clusters = f" in about {check.units} clusters" if check.units < check.n else ""
    parts = [
        f"suite {suite.name}: with {check.n} items{clusters} this gate can PASS a candidate as good as the original in "
        f"{check.power:.0%} of runs and would mostly be INCONCLUSIVE in the others (retention is known to about "
        f"±{check.half_width:.3f}, the margin is {1 - suite.floor:.3f})"
    ]
    if check.power < WANTED and enough:
        short = [
            f"{spec.key} {more} instead of {now}"
            for spec, now, more in zip(suite.gated, counts, enough, strict=True)
            if more > now
        ]
        named = f" ({', '.join(short)})" if len(short) < len(counts) else ""
        parts.append(f"{check.items_needed} items would let it PASS four times in five{named}")
    if check.detectable is None:
        parts.append("not even the loss of everything would FAIL more often than not")
    else:
        parts.append(f"one that keeps {check.detectable:.2f} of it or less would FAIL more often than not")
    return "; ".join(parts)


def power_checks(suites: Sequence[Suite], limit: int | None) -> list[PowerCheck]:
    """`power_check` for every suite whose number of items is known before it runs."""
    found = []
    for suite in suites:
        sizes = {spec.key: limit or spec.limit for spec in suite.gated}
        if all(sizes.values()):
            known = {key: size for key, size in sizes.items() if size}
            found.append(power_check(suite, None, sizes=known, suites=len(suites)))
    return found
