"""What a report shows: one serialisable value that the pipeline fills and every renderer reads.

The HTML page, the Markdown and the JSON file are three views of the same `ReportData`, so their figures cannot differ.
What the tool has to say stands here as messages, which each view writes down in its language. Assumptions: shares and
accuracies are fractions (0..1), never per cent; bytes and seconds are whole units; what was not measured is None or
absent, never zero. Non-finite numbers become None, since JSON has none.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from evals.cost import Sensitivity
from evals.evidence import SuiteEvidence
from evals.score import Score, Side
from evals.secrets import redacted
from evals.speculative import DraftResult
from prune.files import read_json_as, write_json
from prune.planning.plan import Plan
from prune.wording import Message, Text, Words

if TYPE_CHECKING:
    from prune.analysis.result import Analysis

Stage = Literal["original", "pruned", "healed"]
STAGES: tuple[Stage, ...] = ("original", "pruned", "healed")


def finite(value: Any) -> Any:
    """A JSON-ready copy of a nested value: non-finite floats become None, paths and tuples become strings and lists."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return str(value) if isinstance(value, Path) else value


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _no_non_finite_numbers(cls, value: Any) -> Any:
        return finite(value) if isinstance(value, dict) else value


class Candidate(_Part):
    """One measured checkpoint: a depth before or after healing, or the original.

    Attributes:
        num_layers: layers that remain.
        drop, keep: source indices; both sorted.
        evidence: of every suite; of the original any candidate's, since all were judged against the same answers.
        perplexity, bits_per_byte: by domain or text.
        kv_bytes_per_token: of the key-value cache, all layers together.
        decode_speedup: decode tokens/s over the original's, 1.0 for the original.
        decode_speedup_ends: its smallest and largest value over the paired repeats.
        peak_memory_bytes: of a prefill and decode, weights included (`evals.peak_memory`); None where unknown.
        cost_per_million_tokens, healing_cost: in the currency of `Cost`.
        heal_tokens: real tokens trained on.
        break_even_tokens: served tokens after which healing has paid for itself; None: never, or not known.
    """

    num_layers: int
    stage: Stage
    drop: list[int] = []
    keep: list[int] = []
    evidence: list[SuiteEvidence] = []
    perplexity: dict[str, float | None] = {}
    bits_per_byte: dict[str, float | None] = {}
    parameters: int | None = None
    bytes: int | None = None
    kv_bytes_per_token: int | None = None
    prefill_tokens_per_s: float | None = None
    decode_tokens_per_s: float | None = None
    decode_speedup: float | None = None
    decode_speedup_ends: tuple[float, float] | None = None
    cost_per_million_tokens: float | None = None
    peak_memory_bytes: int | None = None
    heal_seconds: float | None = None
    heal_tokens: int | None = None
    healing_cost: float | None = None
    break_even_tokens: float | None = None

    @property
    def key(self) -> str:
        """The name used in the page's address, e.g. `12-healed`."""
        return f"{self.num_layers}-{self.stage}"

    @property
    def suites(self) -> dict[str, Score]:
        """What it scored, by suite, each in its own metric."""
        return {s.name: Score(s, self._side) for s in self.evidence}

    @property
    def tasks(self) -> dict[str, Score]:
        """What it scored, by task."""
        return {task.name: Score(task, self._side) for suite in self.evidence for task in suite.tasks}

    @property
    def _side(self) -> Side:
        return "original" if self.stage == "original" else "candidate"


class SuiteVerdict(_Part):
    """The gate's answer for one suite, and what to do about it.

    Attributes:
        evidence: on the candidate named by `num_layers` and `stage`.
        recommendation: one of 'use shallow', 'heal first', 'keep deep', 'shallow as draft'.
        reason: the figures that led to it.
    """

    evidence: SuiteEvidence
    recommendation: str = ""
    num_layers: int
    stage: Stage
    reason: Message | None = None

    @property
    def suite(self) -> str:
        """The suite's name."""
        return self.evidence.name

    @property
    def title(self) -> Words:
        """Of the suite, by language."""
        return self.evidence.words


class Exported(_Part):
    """The checkpoint that left the building.

    Attributes:
        passed, refused: names of the suites that it passes, and of those that must stay on the original.
        overrides: gates that a person set aside, with the reason.
    """

    num_layers: int
    stage: Stage
    passed: list[str] = []
    refused: list[str] = []
    overrides: list[Message] = []


class Cost(_Part):
    """Money and time; every field is optional because not every run knows its prices.

    Attributes:
        price_per_gpu_hour: in `currency`.
        healing_seconds, healing_cost: of the exported candidate.
        break_even_tokens: served tokens after which what was saved has paid for healing.
        price_note: where the price comes from, in the words of the recipe.
        planned_tokens: the training budget that is priced where it is not the run's own.
        sensitivity: break-even when one assumption moves.
        setting: batch, context, device and dtype of the throughput figures.
    """

    currency: str = "USD"
    price_per_gpu_hour: float | None = None
    healing_seconds: float | None = None
    healing_cost: float | None = None
    break_even_tokens: float | None = None
    price_note: Words = {}
    planned_tokens: int | None = None
    sensitivity: list[Sensitivity] = []
    setting: Message | None = None


class Draft(_Part):
    """Speculative decoding on one suite, with a shallow checkpoint as the original's draft.

    Attributes:
        stage: `trained` is a draft that the run made for speed.
        bytes: of the weights of both.
        cost_per_million_tokens: of the pair, and of the original alone on the same prompts.
    """

    suite: str
    result: DraftResult
    num_layers: int | None = None
    stage: Stage | Literal["trained"] | None = None
    bytes: int | None = None
    cost_per_million_tokens: float | None = None
    plain_cost_per_million_tokens: float | None = None


class AnalysisView(_Part):
    """The arrays that figures are drawn from, as nested lists under the keys of `measurements.safetensors`."""

    num_layers: int
    domains: list[str] = []
    arrays: dict[str, list[Any]] = {}
    scalars: dict[str, float] = {}
    phase_changes: dict[str, Any] = {}
    stability: dict[str, Any] = {}
    difficulty: dict[str, Any] = {}
    warnings: list[Message] = []

    def get(self, key: str, domain: str | None = None) -> list[Any] | None:
        """An array, over all documents or of one domain; None when it was not measured."""
        return self.arrays.get(f"by_domain/{domain}/{key}" if domain else key)

    @classmethod
    def from_analysis(cls, analysis: Analysis) -> AnalysisView:
        """The view of an `Analysis`: arrays rounded to 6 significant digits, domains from the `by_domain/` keys."""
        domains = sorted({key.split("/")[1] for key in analysis.measurements if key.startswith("by_domain/")})
        info = analysis.info
        phase = info.get("phase_changes") or {}
        stability = info.get("stability") or {}
        return cls(
            num_layers=analysis.num_layers,
            domains=domains,
            arrays={key: _rounded(value.tolist()) for key, value in sorted(analysis.measurements.items())},
            scalars={
                key: value for key, value in (info.get("scalars") or {}).items() if isinstance(value, int | float)
            },
            phase_changes=phase if isinstance(phase, dict) else {"found": phase},
            stability=stability if isinstance(stability, dict) else {"chosen_set": stability},
            difficulty=finite(info.get("difficulty") or {}),
            warnings=info.get("messages", []),
        )


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) and math.isfinite(value) else None


class ReportData(_Part):
    """Everything one report says.

    Attributes:
        lang: of the sentences that `save` spells out.
        title: the name of the model.
        ship: PASS: every suite passed; PARTIAL: exported under a label for some suites; FAIL: nothing may ship.
        exported: None when nothing was exported.
        warnings: beyond those of the analysis.
        not_measured: what a reader might expect here and will not find, and why.
        recipe: the resolved recipe as YAML text.
        titles: language code -> name of a domain or task -> what views in that language call it.
        provenance: model, hashes, data, seeds, versions; `durations` (stage -> seconds) under its own name.
    """

    title: str
    lang: Literal["en", "ja"] = "en"
    generated_at: str = ""
    ship: Literal["PASS", "PARTIAL", "FAIL"]
    verdicts: list[SuiteVerdict] = []
    candidates: list[Candidate] = []
    exported: Exported | None = None
    analysis: AnalysisView | None = None
    plans: list[Plan] = []
    cost: Cost | None = None
    drafts: list[Draft] = []
    warnings: list[Message] = []
    not_measured: list[Message] = []
    recipe: str = ""
    titles: dict[str, dict[str, str]] = {}
    provenance: dict[str, Any] = {}
    durations: dict[str, float | None] = {}

    @field_validator("candidates")
    @classmethod
    def _each_candidate_once(cls, value: list[Candidate]) -> list[Candidate]:
        keys = [candidate.key for candidate in value]
        if len(set(keys)) < len(keys):
            raise ValueError(f"each (num_layers, stage) may appear once, got {keys}")
        return sorted(value, key=lambda c: (-c.num_layers, STAGES.index(c.stage)))

    def candidate(self, num_layers: int, stage: Stage) -> Candidate | None:
        """The measured candidate of that depth and stage, if any."""
        return next((c for c in self.candidates if (c.num_layers, c.stage) == (num_layers, stage)), None)

    @property
    def original(self) -> Candidate | None:
        """The unpruned model's measurements."""
        return next((c for c in self.candidates if c.stage == "original"), None)

    @property
    def total_layers(self) -> int:
        """Layers of the original, or of the deepest candidate where it was not measured."""
        return self.original.num_layers if self.original else max(self.depths, default=0)

    @property
    def shown(self) -> Candidate | None:
        """The candidate that the first screen speaks of: the exported one, else the one the verdicts judge."""
        if self.exported:
            return self.candidate(self.exported.num_layers, self.exported.stage)
        judged = next(iter(self.verdicts), None)
        return self.candidate(judged.num_layers, judged.stage) if judged else None

    @property
    def depths(self) -> list[int]:
        """The measured depths, deepest first."""
        return sorted({c.num_layers for c in self.candidates}, reverse=True)

    @property
    def suites(self) -> list[str]:
        """Suite names, in the order of the verdicts, then of first appearance."""
        names = [row.suite for row in self.verdicts] + [name for c in self.candidates for name in c.suites]
        return list(dict.fromkeys(names))

    def suite_title(self, suite: str, text: Text) -> str:
        """The suite's title as its evidence gives it, else its name."""
        judged = [row.evidence for row in self.verdicts] + [found for c in self.candidates for found in c.evidence]
        return next((text.words(found.words) for found in judged if found.name == suite), suite)

    def floor(self, suite: str) -> float | None:
        """The retention floor of a suite's gate."""
        return next((row.evidence.floor for row in self.verdicts if row.suite == suite), None)

    def floor_score(self, suite: str) -> float | None:
        """The suite's metric at the gate's floor: chance + floor x (original - chance); of a loss, original / floor."""
        floor, original = self.floor(suite), self.original
        reference = original.suites.get(suite) if original else None
        if floor is None or reference is None or reference.value is None:
            return None
        chance = reference.found.chance
        if not reference.higher_is_better and not chance:
            return reference.value / floor if floor else None
        return chance + floor * (reference.value - chance)

    def save(self, path: Path, lang: str | None = None) -> None:
        """Write `report.json` atomically: the same figures as the page, and no more secrets than the page.

        Every message also carries its `text` in the language (this report's if None), for readers without a catalogue.

        Raises:
            UsageError: unknown language.
        """
        text = self.text(lang or self.lang)
        found = self.model_copy(update={"lang": text.lang})
        write_json(path, text.spelled(found.model_dump(mode="json")))

    def text(self, lang: str) -> Text:
        """The sentences of a language, with what this report's domains and tasks are called in it.

        Raises:
            UsageError: unknown language.
        """
        return Text(lang, self.titles.get(lang))

    def without_secrets(self) -> ReportData:
        """The same report with every secret removed; before anything is escaped, which would hide one."""
        return ReportData.model_validate(redacted(self.model_dump()))

    @classmethod
    def load(cls, path: Path) -> ReportData:
        """Read and check a `report.json`.

        Raises:
            UsageError: missing file, not JSON, or a field that is wrong (named).
        """
        return read_json_as(cls, path, name="report data", writer="`prune run` writes it into the run directory")
