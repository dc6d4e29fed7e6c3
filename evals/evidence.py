"""The result of a comparison as a value: what was measured on which items, with what certainty, and the verdict.

Written as evidence.json, which other programs rely on, and samples/TASK.jsonl with both models' answers side by side.
Numbers that do not exist are null, never NaN: a retention where the original has nothing to retain, a p-value where
scores are not 0/1.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from evals.answer_cost import AnswerCost
from evals.errors import EvalError
from evals.records import file_name, write_text
from evals.secrets import redacted
from evals.text import text_lines

Verdict = Literal["PASS", "FAIL", "INCONCLUSIVE"]


class _Comparison(BaseModel):
    """Figures that a task and a suite share. Intervals are two-sided; `*_lo` and `*_hi` are their ends."""

    model_config = ConfigDict(extra="forbid")

    n: int = Field(description="items compared")
    units: int | None = Field(default=None, description="independent ones: items of one cluster count as one")
    original: float | None = Field(description="metric of the original (suite: mean over its tasks)")
    candidate: float | None = Field(description="metric of the candidate")
    chance: float = Field(description="metric of a model that knows nothing")
    retention: float | None = Field(description="(candidate - chance) / (original - chance); null: undefined")
    retention_lo: float | None = None
    retention_hi: float | None = None
    floor: float = Field(description="least retention that passes")
    verdict: Verdict
    items_needed: int | None = Field(
        default=None, description="items that would decide an INCONCLUSIVE; null: none in reach"
    )
    note: str = Field(default="", description="why there is no estimate, or what is missing")


class TaskEvidence(_Comparison):
    """One task. Its verdict is not corrected for multiplicity; only the suites' verdicts decide."""

    task: str
    name: str
    metric: str
    filter: str
    higher_is_better: bool
    report_only: bool = False
    original_lo: float
    original_hi: float
    candidate_lo: float
    candidate_hi: float
    lost: int | None = Field(default=None, description="items only the original got right")
    gained: int | None = Field(default=None, description="items only the candidate got right")
    p: float | None = Field(
        default=None, description="exact two-sided p that both are equally often right (McNemar's, over clusters)"
    )
    answers: AnswerCost | None = Field(default=None, description="lengths of generated answers; null: none generated")
    original_stats: dict[str, Any] = {}
    candidate_stats: dict[str, Any] = {}


class SuiteEvidence(_Comparison):
    """One suite: the unit of the decision."""

    name: str
    title: str
    titles: dict[str, str] = Field(default={}, description="language code -> title, as the suite gives them")
    tasks: list[TaskEvidence]
    original_lo: float | None = Field(default=None, description="interval of the mean, at the level of the tasks' own")
    original_hi: float | None = None
    candidate_lo: float | None = None
    candidate_hi: float | None = None
    alpha: float = Field(description="level of the interval after Holm's correction over suites")
    p: float | None = Field(
        default=None, description="two-sided bootstrap p that retention equals the floor, uncorrected"
    )

    @property
    def words(self) -> dict[str, str]:
        """The title by language code."""
        return {"en": self.title, **self.titles}


class Evidence(BaseModel):
    """What a decision rests on. `overall` is PASS when every suite passes, FAIL when one fails."""

    model_config = ConfigDict(extra="forbid")

    format: Literal[1] = 1
    overall: Verdict
    suites: list[SuiteEvidence]
    alpha: float
    seed: int
    bootstrap: int = Field(description="resamples")
    original_model: str = ""
    candidate_model: str = ""
    candidate_sha256: str = Field(default="", description="of its config and weight files; empty: not a directory")
    original_backend: str = Field(default="", description="program that gave its answers; empty: not recorded")
    candidate_backend: str = Field(default="", description="program that gave its answers; empty: not recorded")
    cost: dict[str, Any] | None = None
    samples: dict[str, list[dict[str, Any]]] = Field(default={}, exclude=True, repr=False)

    @property
    def verdict(self) -> Verdict:
        """`overall`: PASS when every suite passes, FAIL when one fails, INCONCLUSIVE otherwise."""
        return self.overall

    def suite(self, name: str) -> SuiteEvidence:
        """One suite's evidence.

        Raises:
            EvalError: it was not judged.
        """
        for found in self.suites:
            if found.name == name:
                return found
        raise EvalError(f"suite {name!r} was not judged; there are {', '.join(s.name for s in self.suites)}")

    def save(self, directory: Path) -> None:
        """Write samples/TASK.jsonl, then evidence.json, each atomically."""
        for name, rows in self.samples.items():
            text = "".join(json.dumps(redacted(row), ensure_ascii=False) + "\n" for row in rows)
            write_text(Path(directory) / "samples" / f"{file_name(name)}.jsonl", text)
        content = redacted(self.model_dump(mode="json"))
        write_text(Path(directory) / "evidence.json", json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, directory: Path) -> Evidence:
        """Read back what `save` wrote.

        Raises:
            EvalError: missing or damaged.
        """
        path = Path(directory) / "evidence.json"
        try:
            evidence = cls.model_validate_json(path.read_text(encoding="utf8"))
            for suite in evidence.suites:
                for task in suite.tasks:
                    samples = Path(directory) / "samples" / f"{file_name(task.name)}.jsonl"
                    if samples.is_file():
                        evidence.samples[task.name] = [json.loads(line) for line in text_lines(samples)]
            return evidence
        except FileNotFoundError as error:
            raise EvalError(f"{path}: no such file; run the evaluation into {directory} first") from error
        except ValidationError as error:
            first = error.errors()[0]
            what = f"{'.'.join(map(str, first['loc'])) or 'all'}: {first['msg']}"
            raise EvalError(f"{path}: not an evidence file ({what}); evaluate again") from error
        except ValueError as error:
            raise EvalError(f"{path}: not an evidence file ({error}); evaluate again") from error
