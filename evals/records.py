"""What one task gave on one model, item by item, and its two files: results.json and samples/NAME.jsonl.

Knows nothing of lm-eval or of models. Assumptions: a task's value is a function of sum(score) / sum(weight) over its
items (a mean, a perplexity, bits per byte), so that it can be resampled; and an item is identified by the document's
number and hash and the hash of the prompt the model saw.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from evals.errors import EvalError
from evals.secrets import redacted, without_secrets
from evals.text import text_lines
from evals.visible import visible

Aggregation = Literal["mean", "perplexity", "bits_per_byte"]

PERPLEXITIES: dict[str, Aggregation] = {
    "perplexity": "perplexity",
    "word_perplexity": "perplexity",
    "byte_perplexity": "perplexity",
    "bits_per_byte": "bits_per_byte",
}
"""lm-eval's metrics whose per-item value is a log-likelihood; every other one must be a mean over items."""


def aggregate(score_per_weight: np.ndarray | float, aggregation: Aggregation) -> Any:
    """A task's value from sum(score) / sum(weight), elementwise.

    `mean` is the identity; scores are log-likelihoods in nats for `perplexity` = exp(-x) (weights count tokens,
    words or bytes) and `bits_per_byte` = -x / ln 2 (weights count bytes): lm-eval's definitions.
    """
    if aggregation == "perplexity":
        return np.exp(-np.asarray(score_per_weight))
    if aggregation == "bits_per_byte":
        return -np.asarray(score_per_weight) / math.log(2)
    return score_per_weight


@dataclass(frozen=True, slots=True)
class Record:
    """One item: which document and prompt, and the score (0/1, a graded score, or a log-likelihood in nats).

    `extra` holds what explains the score: `weight` (bytes or words of a log-likelihood), `response`, `target`,
    `cluster` (what items that depend on each other share) ...
    """

    doc_id: int
    doc_hash: str
    prompt_hash: str
    score: float
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple[int, str, str]:
        """What must be equal for two records to be about the same question."""
        return self.doc_id, self.doc_hash, self.prompt_hash

    @property
    def unit(self) -> str:
        """Label that items which depend on each other share: their cluster, else the document itself."""
        return str(self.extra.get("cluster", self.doc_hash))

    @property
    def weight(self) -> float:
        """Bytes, words or tokens the score sums over; 1 for a score per item."""
        return float(self.extra.get("weight", 1.0))


@dataclass(frozen=True)
class TaskResult:
    """One task on one model.

    Attributes:
        task: lm-eval's task name.
        metric, filter: lm-eval's names.
        records: one per item, in the order of doc_id.
        higher_is_better: false for perplexity and bits per byte.
        aggregation: how the records give `value`.
        name: key in a results mapping; the task name unless the suite gave another.
        stats: rates worth knowing (truncated, empty, repeated answers; over-long prompts), settings, seconds.
    """

    task: str
    metric: str
    filter: str
    records: list[Record]
    higher_is_better: bool = True
    aggregation: Aggregation = "mean"
    name: str = ""
    stats: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.records:
            raise EvalError(f"task {self.task}: no items were scored")
        for record in self.records:
            if not math.isfinite(record.score):
                raise EvalError(
                    f"task {self.task}, item {record.doc_id}: {self.metric} is {record.score}; the model gives NaN or "
                    "infinite logits there (check its weights, or use a wider dtype)"
                )
        if not self.name:
            object.__setattr__(self, "name", self.task)

    @property
    def n(self) -> int:
        """Number of items."""
        return len(self.records)

    @property
    def value(self) -> float:
        """The metric over all items, as lm-eval reports it."""
        total, weight = (math.fsum(values) for values in zip(*((r.score, r.weight) for r in self.records), strict=True))
        return float(aggregate(total / weight, self.aggregation))

    def save(self, directory: Path) -> None:
        """Write samples/NAME.jsonl and add this task to results.json; both atomically."""
        samples = directory / "samples" / f"{file_name(self.name)}.jsonl"
        write_text(samples, "".join(json.dumps(redacted(asdict(r)), ensure_ascii=False) + "\n" for r in self.records))
        path = directory / "results.json"
        results = json.loads(path.read_text(encoding="utf8")) if path.is_file() else {}
        summary = {k: v for k, v in asdict(self).items() if k != "records"}
        results[self.name] = summary | {"value": self.value, "n": self.n, "samples": f"samples/{samples.name}"}
        write_text(path, json.dumps(redacted(results), indent=2, ensure_ascii=False) + "\n")


def save_results(results: Mapping[str, TaskResult], directory: Path) -> None:
    """Write every task's samples and one results.json."""
    for result in results.values():
        result.save(directory)


def load_results(directory: Path, only: str | None = None) -> dict[str, TaskResult]:
    """All tasks (or `only` one) that `save` wrote into a directory.

    Raises:
        EvalError: nothing there, or a damaged file.
    """
    path = directory / "results.json"
    try:
        stored = json.loads(path.read_text(encoding="utf8"))
        wanted = stored if only is None else {only: stored[only]}
        return {name: _from_summary(directory, summary) for name, summary in wanted.items()}
    except FileNotFoundError as error:
        raise EvalError(f"{error.filename}: no such file; run the evaluation into {directory} first") from error
    except (ValueError, KeyError, TypeError) as error:
        raise EvalError(f"{path}: damaged or incomplete ({error!r}); remove it and evaluate again") from error


def _from_summary(directory: Path, summary: dict[str, Any]) -> TaskResult:
    lines = text_lines(directory / summary["samples"])
    fields = ("task", "metric", "filter", "higher_is_better", "aggregation", "name", "stats")
    records = [Record(**json.loads(line)) for line in lines]
    if len(records) != summary["n"]:
        raise ValueError(f"{summary['samples']} has {len(records)} rows where {summary['n']} were written")
    return TaskResult(records=records, **{name: summary[name] for name in fields})


def file_name(name: str) -> str:
    """A task name as a file name."""
    return re.sub(r"[^\w.-]+", "_", name)


def write_text(path: Path, text: str) -> None:
    """Write a result, whole or not at all: without secrets, and with unseen characters as JSON escapes them."""
    write_exact(path, visible(without_secrets(text)))


def write_exact(path: Path, text: str) -> None:
    """Write a UTF-8 file as it is, so that its name holds the old content or the new, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with partial.open("w", encoding="utf8") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    partial.replace(path)
