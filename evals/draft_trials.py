"""What speculative decoding came to: one record a prompt, kept while the work goes on, and the figures made of them.

Knows nothing of how prompts were decoded: `evals.speculative` does it in this process, `evals.served_drafts` in others.
"""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evals.sealed import sealed, unsealed
from evals.speculation import Costs, expected_speedup, median_interval, share_interval

COSTS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class Mismatch:
    """A prompt whose two outputs differ.

    Attributes:
        prompt: its place in the list.
        position: of the first differing new token.
        gap: logit of the original's best token less that of its second best there, computed in one pass without a
            cache; a gap near 0 is a tie that rounding decides.
        tie: the gap is within what rounding moves a logit of that size by.
    """

    prompt: int
    position: int
    gap: float
    tie: bool = False


@dataclass(frozen=True)
class DraftResult:
    """Speculative decoding on one set of prompts.

    Attributes:
        prompts, identical: prompts decoded, and those whose outputs are the same to the token.
        mismatches: the others.
        new_tokens: tokens the original generated in all.
        num_assistant_tokens: γ, tokens proposed at a time.
        acceptance_rate: α, chance that a proposed token is kept, given that those before it were.
        tokens_per_pass: tokens gained per pass of the original.
        draft_cost: c, seconds of one draft step over those of one original step, both decoding alone.
        speedup: median over prompts of plain seconds over assisted seconds.
        expected_speedup: what α, γ and c promise; see `expected_speedup`.
        predicted_speedup: the same with what a checking pass and the prompt's passes cost here, for these answers.
        expected_by_cost: the same α and γ at other draft costs: (c, speed-up).
        device, dtype: of the measurement.
        speedup_lo, speedup_hi, acceptance_lo, acceptance_hi: 95 % bootstrap intervals over prompts.
        median_new_tokens: of the original's answers; below γ most proposals are cut off by the end of the answer.
        plain_tokens_per_s, assisted_tokens_per_s: tokens of all answers over the seconds of all prompts.
        original_share, draft_share: of the assisted seconds, what the two models' passes took; the rest is the loop's.
        pass_cost: seconds of one checking pass over those of a step of the original alone; the formula takes it as 1.
    """

    prompts: int
    identical: int
    mismatches: tuple[Mismatch, ...]
    new_tokens: int
    num_assistant_tokens: int
    acceptance_rate: float | None
    tokens_per_pass: float | None
    draft_cost: float
    speedup: float
    expected_speedup: float | None
    expected_by_cost: tuple[tuple[float, float], ...]
    device: str
    dtype: str
    speedup_lo: float | None = None
    speedup_hi: float | None = None
    acceptance_lo: float | None = None
    acceptance_hi: float | None = None
    median_new_tokens: float | None = None
    plain_tokens_per_s: float | None = None
    assisted_tokens_per_s: float | None = None
    original_share: float | None = None
    draft_share: float | None = None
    pass_cost: float | None = None
    predicted_speedup: float | None = None

    @property
    def ties(self) -> int:
        """Outputs that differ where rounding decides between two tokens."""
        return sum(mismatch.tie for mismatch in self.mismatches)

    @property
    def lossless(self) -> bool:
        """Every output was identical, but for ties."""
        return self.identical + self.ties == self.prompts

    @property
    def faster(self) -> bool:
        """The whole interval of the speed-up lies above 1."""
        return self.speedup_lo is not None and self.speedup_lo > 1

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> DraftResult:
        """What `to_dict` gave, read back."""
        pairs = tuple((cost, speed) for cost, speed in values["expected_by_cost"])
        mismatches = tuple(Mismatch(**row) for row in values["mismatches"])
        return cls(**{**values, "expected_by_cost": pairs, "mismatches": mismatches})


@dataclass(frozen=True)
class Trial:
    """One prompt, decoded by the original alone and with the draft, in turn.

    Attributes:
        new_tokens: of the original's answer.
        plain_s, assisted_s: seconds of both.
        kept: proposals kept.
        tried: those, and the first rejected one of each pass that rejected any.
        passes: of the original, in the assisted decoding.
        original_s, draft_s: of the assisted seconds, those within either model; None where the runtime does not tell.
        alone_s: seconds a token of the draft answering alone; None where it was not asked to.
        mismatch: where the two outputs part; None where they are the same.
    """

    new_tokens: int
    plain_s: float
    assisted_s: float
    kept: float
    tried: float
    passes: int
    original_s: float | None = None
    draft_s: float | None = None
    alone_s: float | None = None
    mismatch: Mismatch | None = None


class TrialLog:
    """Trials in prompt order; with a file, those that a killed process left are used again.

    Attributes:
        trials: all so far.
    """

    def __init__(self, path: Path | None = None, key: Any = None) -> None:
        """Read what is there of the same work.

        Args:
            path: JSON lines; a line that is damaged, or of other work, ends what is used.
            key: what decides the outputs, as JSON.
        """
        self._path, self._key = path, hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        self.trials: list[Trial] = []
        if path is None:
            return
        lines = path.read_bytes().splitlines() if path.is_file() else []
        for line in lines:
            try:
                row = unsealed(line)
                if row["key"] != self._key:
                    break
                part = row["trial"]["mismatch"]
                self.trials.append(Trial(**{**row["trial"], "mismatch": part and Mismatch(**part)}))
            except (ValueError, KeyError, TypeError):
                break
        path.write_text("".join(self._line(trial) for trial in self.trials), encoding="utf8")

    def add(self, trial: Trial) -> None:
        """One more."""
        self.trials.append(trial)
        if self._path is not None:
            with self._path.open("a", encoding="utf8") as handle:
                handle.write(self._line(trial))

    def _line(self, trial: Trial) -> str:
        return sealed({"key": self._key, "trial": asdict(trial)}) + "\n"


def result_of(
    trials: Sequence[Trial],
    *,
    num_assistant_tokens: int,
    device: str,
    dtype: str,
    draft_cost: float | None = None,
    costs: Costs | None = None,
) -> DraftResult:
    """The figures of a set of prompts.

    Args:
        draft_cost: c; from the trials in which the draft answered alone if None.
        costs: measured beforehand, for the prediction.
    """
    plain, assisted = sum(t.plain_s for t in trials), sum(t.assisted_s for t in trials)
    tokens, passes = sum(t.new_tokens for t in trials), sum(t.passes for t in trials)
    if draft_cost is None:
        both = [(t.alone_s, t.plain_s / t.new_tokens) for t in trials if t.alone_s is not None]
        draft_cost = statistics.median(a for a, _ in both) / statistics.median(p for _, p in both)
    ratios = [t.plain_s / t.assisted_s for t in trials]
    low, high = median_interval(ratios)
    tried = sum(t.tried for t in trials)
    alpha = sum(t.kept for t in trials) / tried if tried else None
    kept = share_interval([t.kept for t in trials], [t.tried for t in trials])
    original_s = _sum([t.original_s for t in trials])
    draft_s = _sum([t.draft_s for t in trials])
    mismatches = tuple(t.mismatch for t in trials if t.mismatch is not None)
    length = statistics.median(t.new_tokens for t in trials)
    return DraftResult(
        prompts=len(trials),
        identical=len(trials) - len(mismatches),
        mismatches=mismatches,
        new_tokens=tokens,
        num_assistant_tokens=num_assistant_tokens,
        acceptance_rate=alpha,
        tokens_per_pass=tokens / passes if passes else None,
        draft_cost=draft_cost,
        speedup=statistics.median(ratios),
        speedup_lo=low,
        speedup_hi=high,
        acceptance_lo=kept[0] if kept else None,
        acceptance_hi=kept[1] if kept else None,
        median_new_tokens=length,
        plain_tokens_per_s=tokens / plain,
        assisted_tokens_per_s=tokens / assisted,
        original_share=None if original_s is None else original_s / assisted,
        draft_share=None if draft_s is None else draft_s / assisted,
        pass_cost=None if original_s is None or not passes else original_s / passes / (plain / tokens),
        expected_speedup=None if alpha is None else expected_speedup(alpha, num_assistant_tokens, draft_cost),
        expected_by_cost=()
        if alpha is None
        else tuple((c, expected_speedup(alpha, num_assistant_tokens, c)) for c in COSTS),
        device=device,
        dtype=dtype,
        predicted_speedup=None
        if alpha is None or costs is None
        else costs.speedup(alpha, num_assistant_tokens, length),
    )


def _sum(values: Sequence[float | None]) -> float | None:
    """None where any is missing."""
    known = [v for v in values if v is not None]
    return sum(known) if len(known) == len(values) else None
