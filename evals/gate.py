"""The decision: has the candidate kept enough of the original, suite by suite?

PASS when the lower bound of retention clears the suite's floor, FAIL when the upper bound misses it, INCONCLUSIVE
otherwise, with the number of items that would decide. Several suites are corrected by Holm's step-down procedure on
the p-value of 'retention equals the floor', and each suite's interval is shown at the level at which it was judged,
so that verdict and picture always agree. Assumption: both models answered the same items (checked while pairing).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evals.errors import EvalUsageError
from evals.evidence import Evidence, SuiteEvidence, TaskEvidence, Verdict
from evals.paired import Interval, Pairs, items_needed, mcnemar, pair, retention_interval, value_interval
from evals.records import PERPLEXITIES, TaskResult
from evals.suite import Suite, TaskSpec


def judge(
    original: Mapping[str, TaskResult],
    candidate: Mapping[str, TaskResult],
    suites: Sequence[Suite],
    *,
    alpha: float = 0.05,
    seed: int = 0,
    bootstrap: int = 2000,
) -> Evidence:
    """Compare two models on suites.

    Args:
        original, candidate: results by `TaskSpec.key`, as `run_tasks` returns them. A task that either lacks leaves
            its suite INCONCLUSIVE, and says so.
        alpha: two-sided level over all suites together.
        bootstrap: resamples, at least 200.

    Raises:
        EvalUsageError: no suites, two of one name, or a level or count out of range.
        EvalError: results that do not pair, or a suite whose tasks point in different directions.
    """
    names = [suite.name for suite in suites]
    if not names or len(set(names)) < len(names):
        raise EvalUsageError(f"suites {names}: give at least one, each under its own name")
    if not 0 < alpha < 0.5:
        raise EvalUsageError(f"alpha {alpha}: a level between 0 and 0.5")
    if bootstrap < 200:
        raise EvalUsageError(f"bootstrap {bootstrap}: at least 200 resamples")
    paired = {
        spec.key: pair(original[spec.key], candidate[spec.key], spec.chance)
        for suite in suites
        for spec in suite.tasks
        if spec.key in original and spec.key in candidate
    }
    intervals: dict[str, Interval | None] = {}
    for suite in suites:
        members = [paired[spec.key] for spec in suite.gated if spec.key in paired]
        settings = {"seed": _seed(seed, suite.name), "bootstrap": bootstrap, "alpha": alpha}
        intervals[suite.name] = retention_interval(members, **settings) if members else None  # type: ignore[arg-type]
    levels = holm_levels({s.name: _p_value(intervals[s.name], s.floor) for s in suites}, alpha)
    judged = []
    for suite in suites:
        tasks = [
            _task_evidence(
                spec, suite, paired[spec.key], original[spec.key], candidate[spec.key], alpha, seed, bootstrap
            )
            for spec in suite.tasks
            if spec.key in paired
        ]
        missing = [spec.key for spec in suite.gated if spec.key not in paired]
        judged.append(_suite_evidence(suite, tasks, missing, intervals[suite.name], levels[suite.name]))
    samples = {key: _sample_rows(original[key], candidate[key]) for key in paired}
    return Evidence(
        overall=_overall([suite.verdict for suite in judged]),
        suites=judged,
        alpha=alpha,
        seed=seed,
        bootstrap=bootstrap,
        samples=samples,
    )


def _seed(seed: int, name: str) -> int:
    # Suites must not share resamples, nor depend on which others are judged beside them.
    return zlib.crc32(f"{seed}:{name}".encode())


def _p_value(interval: Interval | None, floor: float) -> float:
    return 1.0 if interval is None or interval.estimate is None else interval.p_value(floor)


def holm_levels(p_values: dict[str, float], alpha: float) -> dict[str, float]:
    """The level at which each suite is judged (Holm 1979): alpha / m for the smallest p, then alpha / (m - 1) ...,
    until one is not decided; all later ones are judged at its level (and, having larger p, are not decided either)."""
    levels: dict[str, float] = {}
    level, stopped = alpha, False
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        if not stopped:
            level = alpha / (len(p_values) - rank)
            stopped = p > level
        levels[name] = level
    return levels


def confirmed(verdicts: Sequence[Verdict]) -> int:
    """How many of several candidates may be claimed to pass, when one of them is to be chosen.

    Fixed-sequence testing (Maurer, Hothorn and Lehmacher 1995): the order is fixed before the data are seen, deepest
    candidate first; each is judged at the full level, and the first that does not PASS ends the sequence. The chance
    of confirming any candidate below the floor is then that of a single test, however many there are: the first such
    one in the order must pass, and everything after it hangs on it. Picking any later PASS gives that up.

    Args:
        verdicts: of the candidates in the order fixed beforehand.

    Returns:
        Length of the confirmed prefix: `verdicts[:n]` all PASS.
    """
    return next((index for index, verdict in enumerate(verdicts) if verdict != "PASS"), len(verdicts))


def _overall(verdicts: list[Verdict]) -> Verdict:
    if "FAIL" in verdicts:
        return "FAIL"
    return "PASS" if all(verdict == "PASS" for verdict in verdicts) else "INCONCLUSIVE"


def verdict_of(interval: Interval, floor: float, alpha: float) -> Verdict:
    """The rule of the gate for one suite at its level: PASS, FAIL or INCONCLUSIVE (also where nothing is to retain)."""
    if interval.estimate is None:
        return "INCONCLUSIVE"
    lo, hi = interval.ends(alpha)
    return "PASS" if lo >= floor else "FAIL" if hi < floor else "INCONCLUSIVE"


@dataclass(frozen=True)
class _Decision:
    retention: float | None
    lo: float | None
    hi: float | None
    verdict: Verdict
    needed: int | None
    note: str


def _decide(interval: Interval, floor: float, alpha: float, n: int) -> _Decision:
    if interval.estimate is None:
        note = "the original is not clearly above chance here, so there is no ability to retain; leave this out"
        return _Decision(None, None, None, "INCONCLUSIVE", None, note)
    lo, hi = interval.ends(alpha)
    verdict = verdict_of(interval, floor, alpha)
    needed = items_needed(n, interval.estimate, lo, hi, floor) if verdict == "INCONCLUSIVE" else None
    return _Decision(interval.estimate, _finite(lo), _finite(hi), verdict, needed, "")


def _finite(end: float) -> float | None:
    return end if math.isfinite(end) else None


def _task_evidence(
    spec: TaskSpec,
    suite: Suite,
    pairs: Pairs,
    original: TaskResult,
    candidate: TaskResult,
    alpha: float,
    seed: int,
    bootstrap: int,
) -> TaskEvidence:
    seed = _seed(seed, f"{suite.name}/{spec.key}")
    interval = retention_interval([pairs], seed=seed, bootstrap=bootstrap, alpha=alpha)
    decision = _decide(interval, suite.floor, alpha, pairs.n)
    ours, theirs = value_interval(pairs, seed=seed, bootstrap=bootstrap, alpha=alpha)
    discordant = mcnemar(pairs)
    values = pairs.values()
    return TaskEvidence(
        task=spec.task,
        name=spec.key,
        metric=spec.metric,
        filter=spec.filter,
        higher_is_better=pairs.higher_is_better,
        report_only=spec.report_only,
        n=pairs.n,
        original=values[0],
        original_lo=ours[0],
        original_hi=ours[1],
        candidate=values[1],
        candidate_lo=theirs[0],
        candidate_hi=theirs[1],
        chance=spec.chance,
        retention=decision.retention,
        retention_lo=decision.lo,
        retention_hi=decision.hi,
        floor=suite.floor,
        verdict=decision.verdict,
        items_needed=decision.needed,
        note=decision.note,
        lost=discordant.lost if discordant else None,
        gained=discordant.gained if discordant else None,
        p=discordant.p if discordant else None,
        original_stats=original.stats,
        candidate_stats=candidate.stats,
    )


def _suite_evidence(
    suite: Suite, tasks: list[TaskEvidence], missing: list[str], interval: Interval | None, alpha: float
) -> SuiteEvidence:
    gated = [task for task in tasks if not task.report_only]
    n = sum(task.n for task in gated)
    if interval is None:
        decision = _Decision(None, None, None, "INCONCLUSIVE", None, "")
    else:
        decision = _decide(interval, suite.floor, alpha, n)
    verdict, note = decision.verdict, decision.note
    if missing:
        verdict = "INCONCLUSIVE"
        note = f"no result for {', '.join(missing)} on at least one of the models" + (f"; {note}" if note else "")

    def mean(values: list[float | None]) -> float | None:
        return math.fsum(v for v in values if v is not None) / len(values) if values else None

    return SuiteEvidence(
        name=suite.name,
        title=suite.title or suite.name,
        tasks=tasks,
        n=n,
        original=mean([task.original for task in gated]),
        candidate=mean([task.candidate for task in gated]),
        chance=mean([spec.chance for spec in suite.gated]) or 0.0,
        retention=decision.retention,
        retention_lo=decision.lo,
        retention_hi=decision.hi,
        floor=suite.floor,
        verdict=verdict,
        items_needed=None if missing else decision.needed,
        note=note,
        alpha=alpha,
        p=None if decision.retention is None or interval is None else interval.p_value(suite.floor),
    )


def _sample_rows(original: TaskResult, candidate: TaskResult) -> list[dict[str, object]]:
    theirs = {record.key: record for record in candidate.records}
    rows = []
    for record in original.records:
        row: dict[str, object] = dict(zip(("doc_id", "doc_hash", "prompt_hash"), record.key, strict=True))
        other = theirs[record.key]
        row |= {"original": record.score, "candidate": other.score}
        row |= {key: record.extra[key] for key in ("target", "weight", "subtask") if key in record.extra}
        if "response" in record.extra:
            row |= {"original_response": record.extra["response"], "candidate_response": other.extra.get("response")}
        rows.append(row)
    return rows


@dataclass(frozen=True)
class PowerCheck:
    """Whether a gate can decide anything with the items it is given.

    Attributes:
        n: items in the whole suite.
        half_width: expected half-width of the retention interval.
        can_pass: an equally good candidate (same accuracy, `discordant` of the answers different) passes at least
            every second time.
        can_fail: a candidate at chance fails at least every second time.
        detectable: the largest retention that would be failed every second time; None where none would.
        items_needed: items of the suite at which an equal candidate passes four times in five.
        message: one line for people.
    """

    n: int
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
    z = float(norm.ppf(1 - alpha / suites / 2))
    above, variance, pseudo = _ability(suite, original, discordant)
    # Var(mean of task differences) = sum(variance / n_t) / T^2; one pseudo-item of the suite shifts the end.
    spread = math.sqrt(math.fsum(variance / c for c in counts)) / len(counts) / above
    half_width = z * spread + pseudo / (math.fsum(counts) + 1) / above
    margin = 1 - suite.floor
    exact = pseudo * (1 - (alpha / suites / 2) ** (1 / math.fsum(counts)))  # loss not excluded although no item is lost
    can_pass = margin > 0 and half_width <= margin and exact / above <= margin
    detectable = suite.floor - half_width
    can_fail = detectable > 0
    factor = ((z + float(norm.ppf(0.8))) * spread / margin) ** 2 if margin > 0 else math.inf
    needed = math.ceil(math.fsum(counts) * factor) if math.isfinite(factor) else 0
    total = int(math.fsum(counts))
    what = "can pass and fail" if can_pass and can_fail else "can only fail" if can_fail else "cannot pass or fail"
    message = (
        f"suite {suite.name}: with {total} items this gate {what}: the interval of retention is about "
        f"±{half_width:.3f} wide against a margin of {margin:.3f}"
    )
    if not can_pass and needed:
        message += f"; {needed} items would let an equal candidate pass four times in five"
    return PowerCheck(total, half_width, can_pass, can_fail, detectable if can_fail else None, needed, message)


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
