"""From the gate's answers to a decision: which candidate may ship, under which label, and what each task class needs.

Holds no statistics: it reads verdicts. A candidate is a depth before (`pruned`) or after (`healed`) training. Assumes
that all candidates were judged on the same suites.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from evals.evidence import Evidence
    from evals.speculative import DraftResult

Stage = Literal["pruned", "healed"]
Recommendation = Literal["use shallow", "heal first", "keep deep", "shallow as draft"]


@dataclass(frozen=True, order=True)
class CandidateKey:
    """A measured checkpoint; sorts by depth, pruned before healed at one depth only through `preference`."""

    num_layers: int
    stage: Stage

    @property
    def preference(self) -> tuple[int, int]:
        """Shallow first; at one depth the untrained checkpoint first, since it costs nothing."""
        return self.num_layers, 0 if self.stage == "pruned" else 1

    @property
    def path(self) -> str:
        """Directory of the checkpoint below the run directory."""
        return f"{self.stage}/{self.num_layers}"

    def __str__(self) -> str:
        return f"{self.stage}-{self.num_layers}"


@dataclass(frozen=True)
class Choice:
    """What is exported.

    Attributes:
        key: the candidate; None when nothing may ship.
        passed: suites that it passes.
        refused: suites that it does not pass; empty for a full pass.
        label: one sentence for report, card and manifest.
    """

    key: CandidateKey | None
    passed: tuple[str, ...]
    refused: tuple[str, ...]
    label: str

    @property
    def ship(self) -> Literal["PASS", "PARTIAL", "FAIL"]:
        """PASS: every required suite; PARTIAL: some, under a label; FAIL: nothing."""
        return "FAIL" if self.key is None else "PARTIAL" if self.refused else "PASS"


def choose(
    judged: Mapping[CandidateKey, Evidence], *, require: Sequence[str] = (), fallback: bool, depth: int
) -> Choice:
    """The shallowest candidate confirmed on every required suite; else, with `fallback`, the one confirmed on most.

    See `confirmed_passes`.

    Args:
        judged: the gate's evidence of each candidate.
        require: suites that must pass; all if empty.
        fallback: allow a candidate that passes a part only.
        depth: layers of the original, for the label.
    """
    passes = confirmed_passes(judged)
    titles = {s.name: s.title for evidence in judged.values() for s in evidence.suites}
    names = list(titles)
    wanted = list(require) or names
    full = [key for key, found in passes.items() if set(wanted) <= set(found)]
    partial = [key for key, found in passes.items() if found] if fallback else []
    most = max((len(passes[key]) for key in partial), default=0)
    pool = full or [key for key in partial if len(passes[key]) == most]
    if not pool:
        return Choice(None, (), tuple(names), f"Keep all {depth} layers: no shallower candidate passes its gates")
    key = min(pool, key=lambda k: k.preference)
    passed = tuple(n for n in names if n in passes[key])
    refused = tuple(n for n in names if n not in passes[key])
    state = "healed" if key.stage == "healed" else "cut, not trained"
    label = f"Shallow ({key.num_layers} of {depth} layers, {state}) for {_join([titles[n] for n in passed])}"
    if refused:
        label += f"; keep the {depth}-layer original for {_join([titles[n] for n in refused])}"
    return Choice(key, passed, refused, label)


def confirmed_passes(judged: Mapping[CandidateKey, Evidence]) -> dict[CandidateKey, list[str]]:
    """Suites that each candidate passes and that every deeper candidate of its stage passes too.

    Fixed-sequence testing, deepest first (`evals.gate.confirmed`): looking for the shallowest PASS among many depths
    would give each of them a chance of a false one. Pruned and healed candidates are two sequences, so that the level
    holds for each of the two.
    """
    from evals.gate import confirmed

    found: dict[CandidateKey, list[str]] = {key: [] for key in judged}
    suites = dict.fromkeys(s.name for evidence in judged.values() for s in evidence.suites)
    for stage in ("pruned", "healed"):
        keys = sorted((key for key in judged if key.stage == stage), key=lambda k: -k.num_layers)
        for suite in suites:
            for key in keys[: confirmed([judged[k].suite(suite).verdict for k in keys])]:
                found[key].append(suite)
    return found


@dataclass(frozen=True)
class ClassVerdict:
    """What one task class (suite) needs, and the figures that led to it.

    Attributes:
        suite: its name.
        recommendation: use shallow: a checkpoint passes as it was cut; heal first: only a healed one passes; shallow
            as draft: none passes, but one speeds the original up without changing its answers; keep deep: neither.
        key: the shallowest checkpoint that passes, or the draft; None for keep deep.
        reason: one sentence with the figures.
    """

    suite: str
    recommendation: Recommendation
    key: CandidateKey | None
    reason: str


def recommend(
    judged: Mapping[CandidateKey, Evidence], suite: str, drafts: Mapping[str, DraftTrial] | None = None
) -> ClassVerdict:
    """The verdict for one task class.

    Args:
        judged: the gate's evidence of each candidate.
        suite: name of the task class.
        drafts: suites on which a candidate was tried as the original's draft.
    """
    passing = [key for key, suites in confirmed_passes(judged).items() if suite in suites]
    if passing:
        key = min(passing, key=lambda k: k.preference)
        action: Recommendation = "use shallow" if key.stage == "pruned" else "heal first"
        return ClassVerdict(suite, action, key, f"the shallowest that passes: {_retention(judged, key, suite)}")
    best = max(judged, key=lambda k: judged[k].suite(suite).retention or float("-inf"))
    reason = f"none passes; the best is {_retention(judged, best, suite)}"
    if needed := judged[best].suite(suite).items_needed:
        reason += f", undecided: about {needed} items would tell"
    trial = (drafts or {}).get(suite)
    if trial is None:
        return ClassVerdict(suite, "keep deep", None, reason)
    reason += f"; {trial.sentence}"
    if trial.result.lossless and trial.result.speedup > 1:
        return ClassVerdict(suite, "shallow as draft", trial.key, reason)
    return ClassVerdict(suite, "keep deep", None, reason)


@dataclass(frozen=True)
class DraftTrial:
    """A candidate tried as the original's draft on one suite's prompts."""

    key: CandidateKey
    result: DraftResult

    @property
    def sentence(self) -> str:
        """What was tried and what came of it."""
        found = self.result
        kept = "no token was proposed" if found.acceptance_rate is None else f"{found.acceptance_rate:.0%} accepted"
        return (
            f"as a draft, {self.key.num_layers} layers give {found.identical} of {found.prompts} outputs identical, "
            f"{kept}, {found.speedup:.2f} x the speed"
        )


def _retention(judged: Mapping[CandidateKey, Evidence], key: CandidateKey, suite: str) -> str:
    found = judged[key].suite(suite)
    state = "healed" if key.stage == "healed" else "cut"
    kept = "retention unknown" if found.retention is None else f"retention {found.retention:.3f}"
    ends = ""
    if found.retention_lo is not None or found.retention_hi is not None:
        # With few items the original may lie within noise of chance: the interval then has no end on that side.
        lo = "-inf" if found.retention_lo is None else f"{found.retention_lo:.3f}"
        hi = "inf" if found.retention_hi is None else f"{found.retention_hi:.3f}"
        ends = f" [{lo}, {hi}]"
    return f"{key.num_layers} layers, {state}, {kept}{ends} against a floor of {found.floor:g}"


def _join(titles: list[str]) -> str:
    lowered = [t[:1].lower() + t[1:] for t in titles]
    return lowered[0] if len(lowered) == 1 else ", ".join(lowered[:-1]) + " and " + lowered[-1]
