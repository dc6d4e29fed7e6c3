"""Which tasks answer which question: suites by purpose, with lm-eval's own task names, shot counts and metrics.

A suite is a YAML file; built-in ones lie in evals/suites. Assumptions: every task of one suite points the same way
(higher or lower is better), because the gate averages them; `chance` is the score of a model that knows nothing. A
suite has two sizes: `full`, all items of every task, and `quick`, the first so many of each.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from evals.errors import EvalUsageError, nearest
from evals.text import NotText, read_text, require_text

SUITES = Path(__file__).parent / "suites"
Size = Literal["quick", "full"]


class TaskSpec(BaseModel):
    """One lm-eval task and the figure to read from it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: str = Field(description="lm-eval task name")
    metric: str = Field("acc", description="lm-eval metric name")
    filter: str = Field("none", description="lm-eval filter name (generation tasks)")
    chance: float = Field(0.0, description="score of a model that knows nothing; 0 with a lower-is-better metric: none")
    num_fewshot: int | None = Field(default=None, ge=0, description="examples in the prompt; null: the task's own")
    max_gen_toks: int | None = Field(default=None, gt=0, description="tokens generated at most; null: the task's own")
    name: str = Field("", description="key of the result; the task name unless two specs read one task")
    report_only: bool = Field(False, description="shown with its figures, but no part of the suite's retention")
    quick: int | None = Field(None, gt=0, description="items of the quick size; the suite's own number if absent")
    limit: int | None = Field(None, gt=0, description="first items only (of each task of a group); null: all")
    cluster: str | None = Field(
        None, description="field of the document that dependent items share (one passage); '': none; null: as known"
    )
    items_per_cluster: float = Field(1.0, ge=1, description="on average, for the power check; counted for jsonl")
    definition: str = Field("", description="lm-eval task file, where the name alone does not find it")

    @property
    def key(self) -> str:
        """Key of this spec's result."""
        return self.name or self.task


class Suite(BaseModel):
    """Tasks that answer one question together, and the share of the original's ability that must be kept."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    title: str = ""
    titles: dict[str, str] = Field({}, description="language code -> title, for readers of another language")
    tasks: list[TaskSpec] = Field(min_length=1)
    floor: float = Field(0.95, gt=0, le=1.5, description="least retention above chance that passes")
    quick: int = Field(200, gt=0, description="items of each task in the quick size")

    @model_validator(mode="after")
    def _distinct(self) -> Suite:
        keys = [spec.key for spec in self.tasks]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} is read twice; give one of them another `name`")
        if all(spec.report_only for spec in self.tasks):
            raise ValueError("every task is report_only; the gate would judge nothing")
        return self

    @property
    def gated(self) -> list[TaskSpec]:
        """The tasks that count towards retention."""
        return [spec for spec in self.tasks if not spec.report_only]

    def sized(self, size: Size) -> Suite:
        """The same suite at `quick` (each task cut to its number of items) or `full` size."""
        if size == "full":
            return self
        cut = [
            spec.model_copy(update={"limit": min(n for n in (spec.quick or self.quick, spec.limit) if n)})
            for spec in self.tasks
        ]
        return self.model_copy(update={"tasks": cut})


def built_in_suites() -> list[str]:
    """Names of the suites that ship with `evals`."""
    return sorted(path.stem for path in SUITES.glob("*.yaml"))


def load_suite(name_or_path: str | Path) -> Suite:
    """A built-in suite by name, or the suite of a YAML file.

    Raises:
        EvalUsageError: no such suite or file, or a field in it is wrong (named).
    """
    import yaml

    path = Path(name_or_path)
    if not path.suffix and str(name_or_path) in built_in_suites():
        path = SUITES / f"{name_or_path}.yaml"
    if not path.is_file():
        if path.suffix.lower() in {".yaml", ".yml"}:
            raise EvalUsageError(f"{path}: no such suite file")
        raise EvalUsageError(f"unknown suite {nearest(str(name_or_path), built_in_suites())}; or give a .yaml file")
    try:
        content: Any = yaml.safe_load(read_text(path))
    except NotText as error:
        raise EvalUsageError(f"{path}: {error}") from None
    except yaml.YAMLError as error:
        raise EvalUsageError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    require_text(content, str(path))
    if not isinstance(content, dict):
        raise EvalUsageError(f"{path}: a suite is a mapping with `name` and `tasks`")
    return make_suite({"name": path.stem, **content}, base=path.parent, source=str(path))


def make_suite(content: dict[str, Any], *, base: Path, source: str) -> Suite:
    """A suite from its fields; entries with `jsonl` become tasks over the user's own items.

    Args:
        base: folder that paths of `jsonl` entries are relative to.
        source: what messages call the place the fields come from.

    Raises:
        EvalUsageError: a field is wrong (named).
    """
    entries = content.get("tasks")
    if isinstance(entries, list):
        tasks = [_task_fields(entry, base, f"{source}: tasks.{index}") for index, entry in enumerate(entries)]
        content = {**content, "tasks": tasks}
    try:
        return Suite(**content)
    except ValidationError as error:
        raise EvalUsageError(f"{source}: {_first(error)}") from error


def _task_fields(entry: Any, base: Path, source: str) -> Any:
    """An entry of a suite's list of tasks, with its own items read if it names any."""
    from evals.own_items import OwnItems

    if not isinstance(entry, dict) or "jsonl" not in entry:
        return entry
    try:
        return OwnItems(**entry).task_fields(base)
    except ValidationError as error:
        raise EvalUsageError(f"{source}.{_first(error)}") from error


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc'])) or 'suite'}: {first['msg']}"
