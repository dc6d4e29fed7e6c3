"""Before anything runs: can a gate decide with the items it is given?

An equally good candidate must be able to pass, and one at chance to fail. Arithmetic on expected accuracies and sizes;
nothing is loaded. Assumption: answers about one cluster are correlated by `CLUSTER_CORRELATION`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evals.errors import EvalUsageError
from evals.records import PERPLEXITIES
from evals.suite import Suite

CLUSTER_CORRELATION = 0.5
"""Taken for the correlation of the models' differences on two items of one cluster; 0.1-0.3 is common, 1 the worst."""


@dataclass(frozen=True)
class PowerCheck:
    """Whether a gate can decide anything with the items it is given.

    Attributes:
        n: items in the whole suite.
        units: independent ones among them; `n` where no task has clusters.
        half_width: expected half-width of the retention interval.
        can_pass: an equally good candidate (same accuracy, `discordant` of the answers different) passes at least
            every second time.
        can_fail: a candidate at chance fails at least every second time.
        detectable: the largest retention that would be failed every second time; None where none would.
        items_needed: items of the suite at which an equal candidate passes four times in five.
        message: one line for people.
    """

    n: int
    units: int
    half_width: float
    can_pass: bool
    can_fail: bool
    detectable: float | None
    items_needed: int
    message: str


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
            bits per byte, `discordant` squared is taken for the variance of the documents' ratio of the two.
        suites: number of suites judged together; the level is alpha / suites, Holm's hardest step.
        sizes: items each task has, by key; caps n.

    Raises:
        EvalUsageError: no items, or an original that is not above chance.
    """
    from scipy.stats import norm

    counts = [min(x for x in (n, (sizes or {}).get(spec.key)) if x) if n or sizes else 0 for spec in suite.gated]
    if not counts or min(counts) < 1:
        raise EvalUsageError(f"suite {suite.name}: at least one item a task is needed; give limit or sizes")
    sizes_of_clusters = [spec.items_per_cluster for spec in suite.gated]
    effects = [1 + (size - 1) * CLUSTER_CORRELATION for size in sizes_of_clusters]  # Kish's design effect
    units = math.fsum(max(1.0, count / size) for count, size in zip(counts, sizes_of_clusters, strict=True))
    z = float(norm.ppf(1 - alpha / suites / 2))
    above, variance, pseudo = _ability(suite, original, discordant)
    # Var(mean of task differences) = sum(variance / n_t) / T^2; one pseudo-unit of the suite shifts the end.
    errors = math.fsum(variance * effect / count for effect, count in zip(effects, counts, strict=True))
    spread = math.sqrt(errors) / len(counts) / above
    half_width = z * spread + pseudo / (units + 1) / above
    margin = 1 - suite.floor
    exact = pseudo * (1 - (alpha / suites / 2) ** (1 / units))  # loss not excluded although nothing is lost
    can_pass = margin > 0 and half_width <= margin and exact / above <= margin
    detectable = suite.floor - half_width
    can_fail = detectable > 0
    total = int(math.fsum(counts))
    factor = ((z + float(norm.ppf(0.8))) * spread / margin) ** 2 if margin > 0 else math.inf
    needed = math.ceil(total * factor) if math.isfinite(factor) else 0
    what = "can pass and fail" if can_pass and can_fail else "can only fail" if can_fail else "cannot pass or fail"
    clusters = f" in about {round(units)} clusters" if units < total else ""
    message = (
        f"suite {suite.name}: with {total} items{clusters} this gate {what}: the interval of retention is about "
        f"±{half_width:.3f} wide against a margin of {margin:.3f}"
    )
    if not can_pass and needed:
        message += f"; {needed} items would let an equal candidate pass four times in five"
    detected = detectable if can_fail else None
    return PowerCheck(total, round(units), half_width, can_pass, can_fail, detected, needed, message)


def power_messages(suites: Sequence[Suite], limit: int | None) -> list[str]:
    """`power_check` in words, for every suite whose number of items is known before it runs."""
    messages = []
    for suite in suites:
        sizes = {spec.key: limit or spec.limit for spec in suite.gated}
        if all(sizes.values()):
            known = {key: size for key, size in sizes.items() if size}
            messages.append(power_check(suite, None, sizes=known, suites=len(suites)).message)
    return messages


def _ability(suite: Suite, original: float | Mapping[str, float], discordant: float) -> tuple[float, float, int]:
    """Expected ability above chance, variance of one item's paired difference, and number of pseudo-items."""
    if any(spec.metric in PERPLEXITIES for spec in suite.gated):
        return 1.0, discordant**2, 0
    accuracy = [original if isinstance(original, int | float) else original[spec.key] for spec in suite.gated]
    above = math.fsum(a - spec.chance for a, spec in zip(accuracy, suite.gated, strict=True)) / len(accuracy)
    if above <= 0:
        raise EvalUsageError(f"suite {suite.name}: an original at {accuracy} is not above chance; nothing to retain")
    return above, discordant, 1
