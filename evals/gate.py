"""The decision: has the candidate kept enough of the original, suite by suite?

PASS when the lower bound of retention clears the suite's floor, FAIL when the upper bound misses it, INCONCLUSIVE
otherwise, with the number of items that would decide. Several suites are corrected by Holm's step-down procedure on
the p-value of 'retention equals the floor', and each suite's interval is shown at the level at which it was judged,
so that verdict and picture always agree. Assumptions: both models answered the same items (checked while pairing);
items depend on each other only within the clusters that the suite declares.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evals.answer_cost import answer_cost
from evals.errors import EvalUsageError
from evals.evidence import Evidence, SuiteEvidence, TaskEvidence, Verdict
from evals.near_chance import near_chance
from evals.paired import Pairs, items_needed, pair, paired_test
from evals.records import TaskResult
from evals.retention import Interval, count_units, retention_interval, value_interval
from evals.shortfall import shortfalls
from evals.suite import Suite, TaskSpec
from evals.suite_interval import mean_interval


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
        members = [paired[spec.key] for spec in suite.gated if spec.key in paired]
        low = near_chance(suite.gated, original, paired)
        judged.append(_suite_evidence(suite, tasks, members, intervals[suite.name], levels[suite.name], low))
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


FEW_UNITS = 20
"""With fewer independent units an undecided interval is explained by their number."""


def _decide(interval: Interval, tasks: Sequence[Pairs], floor: float, alpha: float, units: int) -> _Decision:
    if interval.estimate is None:
        note = "the original is not clearly above chance here, so there is no ability to retain; leave this out"
        return _Decision(None, None, None, "INCONCLUSIVE", None, note)
    lo, hi = interval.ends(alpha)
    verdict = verdict_of(interval, floor, alpha)
    if verdict != "INCONCLUSIVE":
        return _Decision(interval.estimate, _finite(lo), _finite(hi), verdict, None, "")
    n = sum(pairs.n for pairs in tasks)
    needed = items_needed(n, interval.estimate, lo, hi, floor)
    notes = []
    if interval.estimate >= floor and (short := shortfalls(tasks, floor, alpha)):
        notes = [str(task) for task in short]
        needed = needed and max(needed, n + sum(task.needed - task.items for task in short))
    elif units < min(n, FEW_UNITS):
        notes = [
            f"these {n} items are only {units} independent ones; more clusters would decide, not more items of these"
        ]
    return _Decision(interval.estimate, _finite(lo), _finite(hi), verdict, needed, _joined(*notes))


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
    decision = _decide(interval, [pairs], suite.floor, alpha, pairs.units)
    ours, theirs = value_interval(pairs, seed=seed, bootstrap=bootstrap, alpha=alpha)
    discordant = paired_test(pairs)
    values = pairs.values()
    undecided = decision.verdict == "INCONCLUSIVE"
    low = near_chance([spec], {spec.key: original}, {spec.key: pairs}) if undecided else ""
    return TaskEvidence(
        task=spec.task,
        name=spec.key,
        metric=spec.metric,
        filter=spec.filter,
        higher_is_better=pairs.higher_is_better,
        report_only=spec.report_only,
        n=pairs.n,
        units=pairs.units,
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
        note=_joined(decision.note, low, original.stats.get("looks_clustered", "")),
        lost=discordant.lost if discordant else None,
        gained=discordant.gained if discordant else None,
        p=discordant.p if discordant else None,
        answers=answer_cost(original, candidate, seed=seed, bootstrap=bootstrap, alpha=alpha),
        original_stats=original.stats,
        candidate_stats=candidate.stats,
    )


def _suite_evidence(
    suite: Suite, tasks: list[TaskEvidence], members: list[Pairs], interval: Interval | None, alpha: float, low: str
) -> SuiteEvidence:
    gated = [task for task in tasks if not task.report_only]
    missing = [spec.key for spec in suite.gated if spec.key not in {task.name for task in gated}]
    n, units = sum(task.n for task in gated), count_units(members)
    if interval is None:
        decision = _Decision(None, None, None, "INCONCLUSIVE", None, "")
    else:
        decision = _decide(interval, members, suite.floor, alpha, units)
    verdict, notes = decision.verdict, [decision.note]
    if missing:
        verdict = "INCONCLUSIVE"
        notes.insert(0, f"no result for {', '.join(missing)} on at least one of the models")
    notes += [low] if verdict == "INCONCLUSIVE" else []
    notes += [clustered for task in gated if (clustered := task.original_stats.get("looks_clustered"))]
    notes += [
        f"{task.name}: left out of the prompts of {who}: {what}"
        for task in gated
        for who, stats in (("the original", task.original_stats), ("the candidate", task.candidate_stats))
        for what in stats.get("left_out", ())
    ]

    def mean(values: list[float | None]) -> float | None:
        return math.fsum(v for v in values if v is not None) / len(values) if values else None

    return SuiteEvidence(
        name=suite.name,
        title=suite.title or suite.name,
        titles=suite.titles,
        tasks=tasks,
        n=n,
        units=units,
        original=mean([task.original for task in gated]),
        candidate=mean([task.candidate for task in gated]),
        **_own_intervals(members, gated),
        chance=mean([spec.chance for spec in suite.gated]) or 0.0,
        retention=decision.retention,
        retention_lo=decision.lo,
        retention_hi=decision.hi,
        floor=suite.floor,
        verdict=verdict,
        items_needed=None if missing else decision.needed,
        note=_joined(*notes),
        alpha=alpha,
        p=None if decision.retention is None or interval is None else interval.p_value(suite.floor),
    )


def _own_intervals(members: list[Pairs], gated: list[TaskEvidence]) -> dict[str, float]:
    """Ends of both models' own scores on a suite; nothing where no task was finished."""
    if not members:
        return {}
    original = mean_interval(members, "original", [(task.original_lo, task.original_hi) for task in gated])
    candidate = mean_interval(members, "candidate", [(task.candidate_lo, task.candidate_hi) for task in gated])
    names = ("original_lo", "original_hi", "candidate_lo", "candidate_hi")
    return dict(zip(names, (*original, *candidate), strict=True))


def _joined(*notes: str) -> str:
    return "; ".join(note for note in notes if note)


def _sample_rows(original: TaskResult, candidate: TaskResult) -> list[dict[str, object]]:
    theirs = {record.key: record for record in candidate.records}
    rows = []
    for record in original.records:
        row: dict[str, object] = dict(zip(("doc_id", "doc_hash", "prompt_hash"), record.key, strict=True))
        other = theirs[record.key]
        row |= {"original": record.score, "candidate": other.score}
        row |= {key: record.extra[key] for key in ("target", "weight", "subtask", "cluster") if key in record.extra}
        if "response" in record.extra:
            row |= {"original_response": record.extra["response"], "candidate_response": other.extra.get("response")}
        rows.append(row)
    return rows
