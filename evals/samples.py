"""From lm-eval's samples to one `TaskResult`: every item's score, its cluster, and what explains it."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from evals.answer_cost import TOKENS
from evals.clusters import cluster_field, cluster_label, looks_clustered
from evals.ending import answer_statistics
from evals.errors import EvalError, EvalUsageError
from evals.records import PERPLEXITIES, Record, TaskResult
from evals.suite import TaskSpec

if TYPE_CHECKING:
    from lm_eval.api.task import ConfigurableTask


def task_result(
    output: dict[str, Any],
    leaves: dict[str, ConfigurableTask],
    spec: TaskSpec,
    lm: Any,
    stats: dict[str, Any],
    log_samples: bool,
) -> TaskResult:
    """One spec's records out of lm-eval's samples; a group's tasks are joined, weighted by their items.

    Args:
        output: of `lm_eval.evaluate` with its samples.
        leaves: the tasks that were run, by name.
        lm: the model that answered; knows its lengths and which answers were cut off.
        stats: added to the answers' own.
        log_samples: keep each item's document and prompts.

    Raises:
        EvalUsageError: no such metric or filter.
        EvalError: the metric is no mean over items.
    """
    aggregation = PERPLEXITIES.get(spec.metric, "mean")
    records: list[Record] = []
    rows: list[dict[str, Any]] = []
    better: bool | None = None
    clustered = ""
    for leaf, task in leaves.items():
        chosen = [row for row in output["samples"][leaf] if row["filter"] == spec.filter and spec.metric in row]
        if not chosen:
            raise EvalUsageError(_no_such_metric(leaf, spec, output))
        field = cluster_field(spec, leaf, chosen[0]["doc"])
        if field is None and spec.cluster is None:
            clustered = clustered or looks_clustered(leaf, chosen, task.config.num_fewshot or 0)
        subtask = leaf if len(leaves) > 1 else None
        mine = [_record(row, spec, task.OUTPUT_TYPE, subtask, field, log_samples) for row in chosen]
        if task.OUTPUT_TYPE == "generate_until":
            for record in mine:
                record.extra[TOKENS] = len(lm.tok_encode(record.extra["response"], add_special_tokens=False))
        part = TaskResult(leaf, spec.metric, spec.filter, mine, aggregation=aggregation)
        reported = output["results"][leaf][f"{spec.metric},{spec.filter}"]
        if not math.isclose(part.value, reported, rel_tol=1e-9, abs_tol=1e-12):
            raise EvalError(
                f"task {leaf}: {spec.metric} is {reported} but its items give {part.value}; it is no mean over items, "
                "so two models cannot be paired on it; choose another metric"
            )
        better = output["higher_is_better"][leaf].get(spec.metric)
        records += mine
        rows += chosen
    return TaskResult(
        task=spec.task,
        metric=spec.metric,
        filter=spec.filter,
        records=sorted(records, key=lambda r: (r.extra.get("subtask", ""), r.doc_id)),
        higher_is_better=aggregation == "mean" if better is None else better,
        aggregation=aggregation,
        name=spec.key,
        stats=answer_statistics(rows, next(iter(leaves.values())), lm)
        | ({"looks_clustered": clustered} if clustered else {})
        | stats,
    )


def _no_such_metric(leaf: str, spec: TaskSpec, output: dict[str, Any]) -> str:
    offered = sorted(key for key in output["results"][leaf] if "," in key and "_stderr" not in key)
    return f"task {leaf}: no metric {spec.metric!r} with filter {spec.filter!r}; it has {', '.join(offered)}"


def _record(
    row: dict[str, Any], spec: TaskSpec, output_type: str, subtask: str | None, field: str | None, log_samples: bool
) -> Record:
    score = row[spec.metric]
    extra: dict[str, Any] = {"subtask": subtask} if subtask else {}
    if field is not None:
        extra["cluster"] = cluster_label(row["doc"], field)
    if isinstance(score, tuple | list):  # log-likelihood and the number of words or bytes it covers
        score, extra["weight"] = score
    if output_type == "generate_until":
        extra |= {
            "response": row["resps"][0][0],
            "answer": _text(row["filtered_resps"][0]),
            "target": str(row["target"]),
        }
    if log_samples:
        # Through JSON and back: what is kept in memory equals what a file gives.
        extra |= json.loads(json.dumps({"doc": row["doc"], "arguments": row["arguments"]}, default=str))
    return Record(row["doc_id"], row["doc_hash"], row["prompt_hash"], float(score), extra)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
