"""From the gate's answers to a decision: which candidate may ship, under which label, and what each task class needs.

Holds no statistics: it reads verdicts. A candidate is a depth before (`pruned`) or after (`healed`) training. Assumes
that all candidates were judged on the same suites.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from prune.wording import Message, message
from prune.wording.message import ends

if TYPE_CHECKING:
    from evals.evidence import Evidence
    from evals.speculative import DraftResult

Stage = Literal["pruned", "healed", "trained"]
"""`trained` is no candidate: the draft that a run made for speed."""
Recommendation = Literal["use shallow", "heal first", "keep deep", "shallow as draft"]
DRAFT = "draft"
"""Directory of the draft that a run made."""


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
        return DRAFT if self.stage == "trained" else f"{self.stage}/{self.num_layers}"

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
        key: the shallowest checkpoint that passes, of those as they were cut if any does; or the draft; None for keep
            deep.
        reason: the figures.
    """

    suite: str
    recommendation: Recommendation
    key: CandidateKey | None
    reason: Message


def recommend(
    judged: Mapping[CandidateKey, Evidence], suite: str, drafts: Mapping[str, DraftTrial] | None = None
) -> ClassVerdict:
    """The verdict for one task class.

    Args:
        judged: the gate's evidence of each candidate.
        suite: name of the task class.
        drafts: suites on which a candidate was tried as the original's draft.
    """
    passing = sorted(
        (k for k, suites in confirmed_passes(judged).items() if suite in suites), key=lambda k: k.preference
    )
    as_cut = [key for key in passing if key.stage == "pruned"]
    if passing:
        key = (as_cut or passing)[0]
        parts = [message("reason_passes_as_cut" if as_cut else "reason_passes", kept=_kept(judged, key, suite))]
        if passing[0] < key:
            parts.append(message("reason_healed_goes_on", kept=_kept(judged, passing[0], suite)))
        action: Recommendation = "use shallow" if as_cut else "heal first"
        return ClassVerdict(suite, action, key, message("sentences", parts=parts))
    best = max(judged, key=lambda k: judged[k].suite(suite).retention or float("-inf"))
    parts = [message("reason_none_passes", kept=_kept(judged, best, suite))]
    if needed := judged[best].suite(suite).items_needed:
        parts.append(message("reason_undecided", items=needed))
    trial = (drafts or {}).get(suite)
    if trial is not None:
        parts.append(trial.outcome)
    reason = message("sentences", parts=parts)
    if trial is not None and trial.result.lossless and trial.result.faster:
        return ClassVerdict(suite, "shallow as draft", trial.key, reason)
    return ClassVerdict(suite, "keep deep", None, reason)


@dataclass(frozen=True)
class DraftTrial:
    """A candidate tried as the original's draft on one suite's prompts."""

    key: CandidateKey
    result: DraftResult

    @property
    def outcome(self) -> Message:
        """What was tried and what came of it."""
        found = self.result
        return message(
            "reason_draft" if found.acceptance_rate is not None else "reason_draft_idle",
            layers=self.key.num_layers, identical=found.identical, prompts=found.prompts,
            accepted=found.acceptance_rate, speedup=found.speedup,
        )  # fmt: skip


def _kept(judged: Mapping[CandidateKey, Evidence], key: CandidateKey, suite: str) -> Message:
    """A candidate and its retention; with few items the interval may have no end on a side."""
    found = judged[key].suite(suite)
    candidate = message("layers_stage", layers=key.num_layers, stage=message(f"stage_{key.stage}"))
    if found.retention is None:
        return message("kept_undefined", candidate=candidate)
    interval = ends(found.retention_lo, found.retention_hi)
    return message("kept_share", candidate=candidate, share=found.retention, interval=interval, floor=found.floor)


def override_reasons(choice: Choice, own: str | None, titles: Mapping[str, dict[str, str]]) -> list[Message]:
    """Why a checkpoint leaves although suites refuse it: the recipe's fallback, and a person's own words.

    Args:
        own: `export.override` of the recipe.
        titles: suite -> title by language.
    """
    found = [message("override_fallback", suite=titles.get(name) or {"en": name}) for name in choice.refused]
    return [*found, *([message("override_own", reason={"en": own})] if own else [])]


def _join(titles: list[str]) -> str:
    lowered = [t[:1].lower() + t[1:] for t in titles]
    return lowered[0] if len(lowered) == 1 else ", ".join(lowered[:-1]) + " and " + lowered[-1]
