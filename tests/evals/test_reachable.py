"""Data that lie on a hub out of reach are missed before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest
from datasets import Dataset
from huggingface_hub import constants

import prune.embedded
from evals import reachable
from evals.errors import EvalUsageError
from evals.suite_choice import check_tasks, choose_suites

TASKS = Path(prune.embedded.__file__).parent / "tasks"


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    reachable._cached.cache_clear()


def check(*tasks, **options):
    return check_tasks(choose_suites([], tasks, [TASKS]), [TASKS], None, **options)


def test_every_task_without_data_is_named_with_its_data_set_and_what_is_left():
    with pytest.raises(EvalUsageError) as caught:
        check("gsm8k", "gsm8k_cot", "asdiv", "demo_chain")
    said = caught.value.flagged
    assert said.startswith("gsm8k, gsm8k_cot, asdiv: the data (openai/gsm8k, EleutherAI/asdiv) are on the hub")
    assert "--local_data" in said
    assert said.endswith("--tasks demo_chain")


def test_a_command_that_cannot_choose_tasks_does_not_advise_to():
    with pytest.raises(EvalUsageError) as caught:
        check("gsm8k", "demo_chain", selectable=False)
    assert "--tasks" not in caught.value.flagged


def test_tasks_that_bring_their_data_need_no_hub():
    assert check("demo_chain") == []


def test_what_the_cache_holds_is_not_missed(monkeypatch, tmp_path):
    folder = tmp_path / "asdiv"
    Dataset.from_dict({"body": ["a"]}).to_parquet(folder / "validation.parquet")
    real = datasets.load_dataset_builder
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda path, name: real(str(folder)))
    assert check("asdiv") == []


def test_a_hub_whose_name_is_known_is_taken_to_have_the_data(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(reachable, "_known", lambda host: host == "huggingface.co")
    assert check("gsm8k") == []
    monkeypatch.setattr(reachable, "_known", lambda host: False)
    with pytest.raises(EvalUsageError, match="out of reach"):
        check("gsm8k")


def test_asking_the_cache_leaves_the_libraries_as_they_were(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(reachable, "_known", lambda host: False)
    with pytest.raises(EvalUsageError):
        check("gsm8k")
    assert constants.HF_HUB_OFFLINE is False
