"""The table of data sets names what lm-eval reads, and files that `local_data` knows."""

from __future__ import annotations

import pytest
import yaml

from evals.catalogue import definition, definition_of
from evals.data_sets import data_set_of, data_sets
from evals.local_data.layouts import layout_of
from evals.suite import built_in_suites, load_suite

TASKS = sorted({spec.task for name in built_in_suites() for spec in load_suite(name).tasks})


@pytest.mark.parametrize("task", TASKS)
def test_every_task_of_a_suite_has_its_data_set_as_lm_eval_reads_it(task: str) -> None:
    found = data_set_of(task)
    assert found is not None
    path = definition_of(task)
    if task.startswith("mmlu_"):  # groups: their subjects share one template
        path = definition_of("mmlu_anatomy")
    assert path is not None
    stock = definition(path)
    where = stock["dataset_path"] if stock["dataset_path"] != "json" else yaml.dump(stock["dataset_kwargs"])
    name, _, part = found.data_set.rstrip(")").partition(" (")
    assert name in where
    if part:
        assert stock.get("dataset_name") == part


def test_no_data_set_is_listed_for_a_task_that_no_suite_has() -> None:
    assert sorted(task for found in data_sets() for task in found.tasks) == TASKS


@pytest.mark.parametrize("task", TASKS)
def test_local_data_knows_files_of_every_task(task: str) -> None:
    assert layout_of(task.replace("_stem", "_anatomy")) is not None
