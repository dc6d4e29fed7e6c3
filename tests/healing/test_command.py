"""`prune.heal` on files: what it reads, and what it leaves behind."""

from __future__ import annotations

import json

import pytest

import evals.harness
import prune
from prune.embedded import HERE
from prune.errors import UsageError

STORIES = {"stories": str(HERE / "data/heal/stories.jsonl")}


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    target = tmp_path_factory.mktemp("command") / "cut"
    prune.cut("embedded", target, drop_layers="11-14", verify=False)
    return str(target)


def test_a_finished_run_leaves_its_model_and_no_checkpoints(cut, tmp_path):
    small = {"max_steps": 2, "max_length": 48, "per_device_train_batch_size": 2, "eval_max_documents": 2}
    prune.heal(cut, tmp_path / "healed", teacher="embedded", data=STORIES, save_steps=1, **small)
    assert [path.name for path in tmp_path.iterdir()] == ["healed"]
    assert (tmp_path / "healed/model.safetensors").is_file()
    assert json.loads((tmp_path / "healed/healing.json").read_text())["teacher"] == "embedded"


def test_documents_are_as_long_as_the_rows_of_training(cut, tmp_path):
    (tmp_path / "long.jsonl").write_text("".join(json.dumps({"input_ids": [5] * 700}) + "\n" for _ in range(2)))
    options = {"teacher": None, "data": {"long": str(tmp_path / "long.jsonl")}, "dry_run": True}
    options |= {"distill_weight": 0, "next_token_weight": 1, "max_length": 600}
    assert prune.heal(cut, tmp_path / "out", **options)["data"]["long"]["tokens"] == 1200
    assert prune.heal(cut, tmp_path / "out", seq_length=100, **options)["data"]["long"]["tokens"] == 200


def test_tracking_no_item_is_refused_before_training(cut, tmp_path):
    with pytest.raises(UsageError, match="track_limit 0"):
        prune.heal(cut, tmp_path / "out", teacher="embedded", data=STORIES, track_suites=["math"], track_limit=0)
    assert not list(tmp_path.iterdir())


def test_tracked_tasks_are_served_from_local_files(cut, tmp_path):
    (tmp_path / "data/piqa").mkdir(parents=True)
    rows = [{"goal": f"goal {n}", "sol1": "do this", "sol2": "do that", "label": n % 2} for n in range(2)]
    (tmp_path / "data/piqa/validation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "mine.yaml").write_text("name: mine\ntasks: [{task: piqa}]\n")
    small = {"max_steps": 1, "max_length": 48, "per_device_train_batch_size": 2, "eval_max_documents": 2}
    tracked = {"track_suites": [str(tmp_path / "mine.yaml")], "local_data": str(tmp_path / "data")}
    result = prune.heal(cut, tmp_path / "healed", teacher="embedded", data=STORIES, **tracked, **small)
    assert any("piqa" in key for entry in result.history for key in entry)


def test_tracking_changes_nothing_that_is_trained(cut, tmp_path, monkeypatch):
    """Every test seeds for itself; the dropout of the training goes on as if there had been none."""
    (tmp_path / "items.jsonl").write_text('{"prompt": "1 + 1 =", "answer": " 2"}\n')
    suite = "name: mine\ntasks: [{jsonl: items.jsonl, kind: exact, name: mine}]\n"
    (tmp_path / "mine.yaml").write_text(suite)
    small = {"max_steps": 4, "max_length": 32, "per_device_train_batch_size": 2, "eval_max_documents": 2}
    small |= {"eval_steps": 1, "lora_dropout": 0.3}
    tracked = {"track_suites": [str(tmp_path / "mine.yaml")], "track_limit": 1}

    def trained(name: str, **options) -> list[dict]:
        return prune.heal(cut, tmp_path / name, teacher="embedded", data=STORIES, **small, **options).history

    def losses(history: list[dict]) -> list[float]:
        return [entry["loss"] for entry in history if "loss" in entry]

    plain, watched = trained("plain"), trained("watched", **tracked)
    monkeypatch.setattr(evals.harness, "run_tasks", evals.harness.run_tasks.__wrapped__)
    reseeded = trained("reseeded", **tracked)
    assert any("mine" in key for entry in watched for key in entry)
    assert losses(plain) == losses(watched)
    assert losses(plain) != losses(reseeded)  # without the care that is taken, this test sees it
