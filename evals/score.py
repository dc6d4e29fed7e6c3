"""One model's side of a comparison: its score with its interval, and, for the candidate, what the gate says of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from evals.evidence import SuiteEvidence, TaskEvidence, Verdict
from evals.records import PERPLEXITIES

Side = Literal["original", "candidate"]
Interval = tuple[float | None, float | None, float | None]


@dataclass(frozen=True)
class Score:
    """A view of a suite's or a task's evidence."""

    found: SuiteEvidence | TaskEvidence
    side: Side

    @property
    def value(self) -> float | None:
        """The metric; of a suite the mean over its tasks."""
        return self.found.original if self.side == "original" else self.found.candidate

    @property
    def lo(self) -> float | None:
        """Lower end of the metric's interval."""
        return self.found.original_lo if self.side == "original" else self.found.candidate_lo

    @property
    def hi(self) -> float | None:
        """Upper end of the metric's interval."""
        return self.found.original_hi if self.side == "original" else self.found.candidate_hi

    @property
    def retained(self) -> Interval:
        """Retention against the original with both ends; all None for the original itself."""
        if self.side == "original":
            return None, None, None
        return self.found.retention, self.found.retention_lo, self.found.retention_hi

    @property
    def verdict(self) -> Verdict | None:
        """The gate's; None for the original itself."""
        return None if self.side == "original" else self.found.verdict

    @property
    def higher_is_better(self) -> bool:
        """False for losses."""
        return all(task.higher_is_better for task in self._tasks)

    @property
    def metric(self) -> str:
        """The metric; of a suite its first task's."""
        return self._tasks[0].metric

    @property
    def is_share(self) -> bool:
        """False for metrics in a unit of their own, such as bits per byte."""
        return all(task.metric not in PERPLEXITIES for task in self._tasks)

    @property
    def _tasks(self) -> list[TaskEvidence]:
        return self.found.tasks if isinstance(self.found, SuiteEvidence) else [self.found]
