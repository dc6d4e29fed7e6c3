"""Where the files of the built-in suites' tasks come from, for machines that reach no hub: `data_sets.yaml`."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class DataSet:
    """One public data set.

    Attributes:
        tasks: lm-eval's tasks, and ours, that read it.
        data_set: its name on the hub, with the part that is read.
        files: what `local_data` recognises of what its publisher offers.
        publisher: where its authors keep it.
        licence: as they state it there.
    """

    tasks: list[str]
    data_set: str
    files: str
    publisher: str
    licence: str


@functools.cache
def data_sets() -> tuple[DataSet, ...]:
    """Every data set of the built-in suites."""
    import yaml

    text = Path(__file__).with_suffix(".yaml").read_text(encoding="utf8")
    return tuple(DataSet(**row) for row in yaml.safe_load(text))


def data_set_of(task: str) -> DataSet | None:
    """What a task reads; None for a task that is in no built-in suite."""
    return next((found for found in data_sets() if task in found.tasks), None)
