"""From task names to lm-eval's task objects: the user's own, those served from local files, lm-eval's own.

Assumptions: a name in an `include_path` wins over lm-eval's; lm-eval's index is built (a quarter of a minute) only for
groups, tags and unknown names.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.catalogue import definition, definition_of
from evals.errors import EvalUsageError, nearest
from evals.local_data import serve
from evals.reachable import absent_data
from evals.reads import code_files, seen, watched
from evals.suite import TaskSpec

if TYPE_CHECKING:
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks import TaskManager


@dataclass
class FoundTasks:
    """Where each task's definition is.

    Attributes:
        places: for each task, the managers and names (or YAML paths) that load it; several for a group.
        failures: tasks that local data cannot serve, with the reason.
        notes: what the user must know about a task's local data.
        reads: paths of the files that were read for them, see `evals.reads`.
    """

    places: dict[str, list[tuple[TaskManager, str]]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    reads: set[str] = field(default_factory=set)

    def refuse_unsafe_code(self) -> None:
        """Refuse tasks whose scoring runs what the model writes; their definitions are read, nothing of them is run.

        Raises:
            EvalUsageError: naming them, with the cure.
        """
        unsafe = [task for task, places in self.places.items() if any(_runs_code(*place) for place in places)]
        if unsafe:
            raise EvalUsageError(
                f"{', '.join(unsafe)}: scoring runs the code that the model writes, on this machine and unguarded; say "
                "confirm_run_unsafe_code if that is meant, or leave these tasks out"
            )

    def absent(self) -> dict[str, str]:
        """Task -> the hub's data set that it needs and that cannot be had here."""
        found = {}
        for task, places in self.places.items():
            missing = [absent_data(settings) for place in places for settings in _definitions(*place)]
            if missing and (name := next(filter(None, missing), None)):
                found[task] = name
        return found

    def load(
        self, spec: TaskSpec, seed: int, gen_kwargs: Mapping[str, Any] | None = None
    ) -> dict[str, ConfigurableTask]:
        """The task (or a group's tasks) by name, with the spec's shot count and generation length set; `gen_kwargs`
        win over both."""
        leaves: dict[str, Any] = {}
        with watched(self.reads):
            for manager, name in self.places[spec.task]:
                leaves |= manager.load(name)["tasks"]
        for task in leaves.values():
            self.reads.update(map(str, code_files(task)))
            own = task.config.num_fewshot or 0
            task.set_config(key="num_fewshot", value=own if spec.num_fewshot is None else spec.num_fewshot)
            task.set_fewshot_seed(seed=seed)
            if task.OUTPUT_TYPE == "generate_until":
                length = {} if spec.max_gen_toks is None else {"max_gen_toks": spec.max_gen_toks}
                task.set_config(key="generation_kwargs", value={**length, **(gen_kwargs or {})}, update=True)
        return leaves


def find_tasks(
    specs: Sequence[TaskSpec], include_path: Sequence[Path] = (), local_data: Path | None = None
) -> FoundTasks:
    """Locate every task; nothing is loaded or fetched yet.

    Args:
        include_path: folders of lm-eval task files; their names win.
        local_data: folder whose files replace the hub for lm-eval's own tasks.

    Raises:
        EvalUsageError: a folder does not exist, or a task is unknown (nearest names given).
    """
    for folder in include_path:
        if not Path(folder).is_dir():
            raise EvalUsageError(f"include_path {folder}: no such directory")
    found = FoundTasks(reads=seen(include_path, local_data))
    with watched(found.reads):
        _find(found, specs, include_path, local_data)
    return found


def _find(found: FoundTasks, specs: Sequence[TaskSpec], include_path: Sequence[Path], local_data: Path | None) -> None:
    own = _manager(tuple(map(str, include_path)))
    stock: dict[str, list[str]] = {}
    definitions = {spec.task: spec.definition for spec in specs}
    for task in definitions:
        if definitions[task]:
            found.places[task] = [(own, definitions[task])]
        elif task in own.task_index:
            found.places[task] = [(own, task)]
        elif path := definition_of(task):
            stock[task] = [task]
            found.places[task] = [(own, str(path))]
        else:
            index = _index()
            if task not in index.task_index:
                raise EvalUsageError(f"unknown task {nearest(task, sorted({*index.all_tasks, *own.all_tasks}))}")
            stock[task] = _leaves(index, task)
            found.places[task] = [(index, task)]
    if local_data is not None and stock:
        _use_local_data(found, stock, specs, local_data)


def _runs_code(manager: TaskManager, name: str) -> bool:
    return any(settings.get("unsafe_code") for settings in _definitions(manager, name))


def _definitions(manager: TaskManager, name: str) -> list[dict[str, Any]]:
    """Settings of a task's file, or of those below a group."""
    leaves = [name] if name.endswith(".yaml") else _leaves(manager, name)
    entries = {leaf: manager.task_index.get(leaf) for leaf in leaves}
    paths = [entry.yaml_path if entry else Path(leaf) for leaf, entry in entries.items()]
    return [definition(path) for path in paths if path]


def _manager(folders: tuple[str, ...]) -> TaskManager:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=list(folders) or None, include_defaults=False)


@functools.cache
def _index() -> TaskManager:
    from lm_eval.tasks import TaskManager

    return TaskManager()


def _leaves(index: TaskManager, name: str) -> list[str]:
    """Names of the tasks below a group or tag."""
    entry = index.task_index[name]
    listed = sorted(entry.tags) if entry.kind.name == "TAG" else (entry.cfg or {}).get("task")
    if not isinstance(listed, list):
        return [name]
    names = [item if isinstance(item, str) else item.get("task") or item.get("group") for item in listed]
    return [leaf for child in names if child in index.task_index for leaf in _leaves(index, child)]


def _use_local_data(
    found: FoundTasks, stock: dict[str, list[str]], specs: Sequence[TaskSpec], local_data: Path
) -> None:
    asked = [(leaf, spec.num_fewshot) for spec in specs for leaf in stock.get(spec.task, [])]
    served = serve(asked, Path(local_data))
    manager = _manager((str(served.folder),))
    for task, leaves in stock.items():
        lacking = [served.failures[leaf] for leaf in leaves if leaf in served.failures]
        if lacking:
            del found.places[task]
            more = f" (and {len(lacking) - 1} more tasks of {task})" if len(lacking) > 1 else ""
            found.failures[task] = lacking[0] + more
            continue
        found.places[task] = [(manager, leaf) for leaf in leaves]
        notes = [served.notes[leaf] for leaf in leaves if leaf in served.notes]
        if notes:
            found.notes[task] = notes[0]
