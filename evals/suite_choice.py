"""A suite from bare task names, for whoever says `--tasks gsm8k,arc_easy` and nothing more.

A task of a built-in suite is read as that suite reads it (metric, filter, length, chance). For any other task the
first metric and filter of its definition count, and its chance level is taken from the number of choices of its items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evals.catalogue import definition, definition_of
from evals.errors import EvalUsageError
from evals.records import TaskResult
from evals.suite import Suite, TaskSpec, built_in_suites, load_suite
from evals.tasks import find_tasks


def choose_suites(
    suites: Sequence[Suite], tasks: Sequence[str], include_path: Sequence[Path] = (), num_fewshot: int | None = None
) -> list[Suite]:
    """The suites to judge.

    Args:
        suites: as they were loaded.
        tasks: keep these tasks of the suites only; those that no suite has form a suite named `tasks`.
        num_fewshot: examples in every prompt; the suite's or the task's own when None.

    Raises:
        EvalUsageError: a task is unknown.
    """
    chosen = list(suites)
    if tasks:
        known = {name for suite in suites for spec in suite.tasks for name in (spec.task, spec.key)}
        kept = []
        for suite in suites:
            specs = [spec for spec in suite.tasks if spec.task in tasks or spec.key in tasks]
            if any(not spec.report_only for spec in specs):
                kept.append(suite.model_copy(update={"tasks": specs}))
        rest = [task for task in tasks if task not in known]
        if rest:
            found = [spec for task in rest for spec in _specs(task, include_path)]
            kept.append(Suite(name="tasks", title=", ".join(rest), tasks=found))
        chosen = kept
    if num_fewshot is None:
        return chosen
    return [
        suite.model_copy(
            update={"tasks": [spec.model_copy(update={"num_fewshot": num_fewshot}) for spec in suite.tasks]}
        )
        for suite in chosen
    ]


def _specs(task: str, include_path: Sequence[Path]) -> list[TaskSpec]:
    for name in built_in_suites():
        listed = [spec for spec in load_suite(name).tasks if spec.task == task]
        if listed:
            return [spec.model_copy(update={"report_only": i > 0}) for i, spec in enumerate(listed)]
    manager, name = find_tasks([TaskSpec(task=task)], include_path).places[task][0]
    entry = manager.task_index.get(name)
    path = entry.yaml_path if entry else definition_of(task)
    settings: dict[str, Any] = definition(path) if path else {}
    metrics = settings.get("metric_list") or [{"metric": "acc"}]
    filters = settings.get("filter_list") or [{"name": "none"}]
    return [TaskSpec(task=task, metric=str(metrics[0]["metric"]).rsplit(".", 1)[-1], filter=filters[0]["name"])]


def check_tasks(
    suites: Sequence[Suite],
    include_path: Sequence[Path],
    local_data: Path | None,
    confirm_run_unsafe_code: bool = False,
    *,
    selectable: bool = True,
) -> list[str]:
    """Find every task, and its data; returns what the user must know about it.

    Args:
        selectable: the user can name single tasks of the suites.

    Raises:
        EvalUsageError: an unknown task, no data for one here or within reach, or one that runs generated code without
            leave to.
    """
    found = find_tasks([spec for suite in suites for spec in suite.tasks], include_path, local_data)
    if not confirm_run_unsafe_code:
        found.refuse_unsafe_code()
    absent = found.absent()
    if lacking := {**found.failures, **absent}:
        reasons = [*found.failures.values(), *([_out_of_reach(absent)] if absent else [])]
        rest = ",".join(dict.fromkeys(t.task for s in suites for t in s.tasks if t.task not in lacking))
        cure = f"; or leave out what is missing: --tasks {rest}" if rest and selectable else ""
        raise EvalUsageError(f"{' | '.join(reasons)}{cure}")
    return [f"task {task}: {note}" for task, note in found.notes.items()]


def _out_of_reach(absent: Mapping[str, str]) -> str:
    """Task -> data set, as one sentence."""
    return (
        f"{', '.join(absent)}: the data ({', '.join(dict.fromkeys(absent.values()))}) are on the hub, which is out of "
        "reach, and not cached here: give --local_data a folder that holds them"
    )


def with_measured_chance(suites: Sequence[Suite], results: Mapping[str, TaskResult]) -> list[Suite]:
    """The suite `tasks` with the chance level that its multiple-choice items have; other suites state their own."""

    def measured(spec: TaskSpec) -> TaskSpec:
        stats = results[spec.key].stats if spec.key in results else {}
        return spec.model_copy(update={"chance": stats["chance"]}) if spec.chance == 0 and "chance" in stats else spec

    return [
        suite.model_copy(update={"tasks": [measured(spec) for spec in suite.tasks]}) if suite.name == "tasks" else suite
        for suite in suites
    ]
