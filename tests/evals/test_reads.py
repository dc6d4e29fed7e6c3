"""Every file that a score depends on is known once its task was loaded, wherever it lies and whatever is cached."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from evals import reads
from evals.finished import FinishedTasks
from evals.harness import run_tasks
from evals.suite import TaskSpec
from evals.tasks import find_tasks

SPEC = TaskSpec(task="mine", metric="acc")
ROWS = [{"question": f"what is {i}", "answer": f" {i}"} for i in range(4)]
COMMON = {
    "output_type": "multiple_choice", "test_split": "test", "doc_to_text": "{{question}}", "doc_to_target": 0,
    "metric_list": [{"metric": "acc"}],
}  # fmt: skip


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """An include_path, and a place elsewhere with everything that the task `mine` there reads."""
    tasks, elsewhere = tmp_path / "tasks", tmp_path / "elsewhere"
    tasks.mkdir(), elsewhere.mkdir()
    (elsewhere / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (elsewhere / "words.txt").write_text("yes no")
    (elsewhere / "helper.py").write_text(
        "from pathlib import Path\nWORDS = Path(__file__).with_name('words.txt').read_text().split()\n"
        "def choices(doc):\n    return WORDS\n"
    )
    name = f"utils_{tmp_path.name}"  # its own: Python keeps modules by name
    (elsewhere / f"{name}.py").write_text(
        "import importlib.util, pathlib, sys\n"
        f"spec = importlib.util.spec_from_file_location('helper_{tmp_path.name}', "
        "pathlib.Path(__file__).with_name('helper.py'))\n"
        "helper = importlib.util.module_from_spec(spec)\nsys.modules[spec.name] = helper\n"
        "spec.loader.exec_module(helper)\n"
        "choices = lambda doc: helper.choices(doc)\n"
    )
    (elsewhere / "common.yaml").write_text(f"{yaml.safe_dump(COMMON)}doc_to_choice: !function {name}.choices\n")
    (tasks / "mine.yaml").write_text(
        f"include: {elsewhere / 'common.yaml'}\ntask: mine\ndataset_path: json\n"
        f"dataset_kwargs:\n  data_files:\n    test: {elsewhere / '*.jsonl'}\n"
    )
    return tasks, elsewhere


def _load(tasks: Path) -> dict[str, Any]:
    return find_tasks([SPEC], [tasks]).load(SPEC, seed=0)


@pytest.mark.parametrize("again", [False, True], ids=["first", "everything cached"])
def test_rows_includes_code_and_what_code_reads_are_seen(
    folders: tuple[Path, Path], again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks, elsewhere = folders
    _load(tasks)
    if again:
        before = reads.files_read([tasks])
        words = str((elsewhere / "words.txt").resolve())
        monkeypatch.setattr(reads, "_SEEN", {})
        _load(tasks)
        assert reads.files_read([tasks]).items() >= {k: v for k, v in before.items() if k != words}.items()
        return
    found = {Path(path).name for path in reads.files_read([tasks])}
    assert found == {p.name for p in elsewhere.iterdir() if p.is_file()}


def test_libraries_caches_and_the_folders_themselves_are_left_out(folders: tuple[Path, Path]) -> None:
    tasks, elsewhere = folders
    _load(tasks)
    assert {Path(path).parent for path in reads.files_read([tasks])} == {elsewhere.resolve()}


def test_nothing_is_seen_while_nobody_watches(tmp_path: Path) -> None:
    opened: set[str] = set()
    (tmp_path / "a.txt").write_text("a"), (tmp_path / "b.txt").write_text("b")
    with reads.watched(opened):
        (tmp_path / "a.txt").read_text()
        (tmp_path / "new.txt").write_text("written, not read")
    (tmp_path / "b.txt").read_text()
    assert {os.path.basename(path) for path in opened} == {"a.txt"}


@pytest.mark.parametrize("name", ["rows.jsonl", "helper.py"])
def test_another_text_of_a_helper_or_a_row_is_another_entry_of_the_cache(
    folders: tuple[Path, Path], tmp_path: Path, name: str
) -> None:
    tasks, elsewhere = folders

    def entry() -> Path:
        return FinishedTasks(tmp_path, "model").entry([SPEC], _load(tasks), {"limit": None})

    first = entry()
    assert entry() == first
    path = elsewhere / name
    path.write_text(path.read_text().replace("what is 1", "what is one").replace("return WORDS", "return WORDS[::-1]"))
    assert entry() != first


def _flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize(
    "damage", [_flip, _truncate, Path.unlink, lambda p: p.write_bytes(b"[]"), lambda p: p.write_bytes(b"\xff")]
)
def test_a_damaged_finished_task_is_done_again(
    damage: Callable[[Path], Any], model: Any, tokenizer: Any, task_dir: Path, tmp_path: Path
) -> None:
    spec = TaskSpec(task="tiny_choice", metric="acc_norm", chance=0.25)

    def score() -> Any:
        return run_tasks(model, tokenizer, [spec], include_path=[task_dir], limit=4, cache_dir=tmp_path)[spec.key]

    first = score()
    for place in ("results.json", "whole.json", "samples/tiny_choice.jsonl"):
        (path,) = tmp_path.glob(f"*/*/{place}")
        damage(path)
        assert score().records == first.records
    shutil.rmtree(tmp_path)
