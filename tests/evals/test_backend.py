"""Several processes, and other programs that serve the model, give what one process gives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from evals.backend import check_backend
from evals.errors import EvalError, EvalUsageError
from evals.fingerprint import directory_fingerprint
from evals.harness import run_tasks
from evals.paired import pair
from evals.records import Record, TaskResult, load_results
from evals.suite import TaskSpec

REPOSITORY = Path(__file__).resolve().parents[2]
SPECS = [
    TaskSpec(task="tiny_choice", metric="acc_norm", chance=0.25),
    TaskSpec(task="tiny_rolling", metric="bits_per_byte"),
    TaskSpec(task="tiny_generate", metric="exact_match", filter="any-letter"),
]
WORKER = """
import sys
from pathlib import Path
from transformers import AutoModelForCausalLM, AutoTokenizer
from evals.harness import run_tasks
from evals.suite import TaskSpec
model, tasks, out, specs = sys.argv[1:]
found = run_tasks(
    AutoModelForCausalLM.from_pretrained(model).eval(),
    AutoTokenizer.from_pretrained(model),
    [TaskSpec.model_validate_json(line) for line in specs.split("\\n")],
    include_path=[Path(tasks)], batch_size=4, limit=23, cache_dir=Path(out) / "cache",
)
for result in found.values():
    result.save(Path(out))
"""


@pytest.fixture(scope="module")
def directory(model: Any, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_two_processes_give_every_item_once_with_the_scores_of_one(
    directory: Path, model: Any, tokenizer: Any, task_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "worker.py").write_text(WORKER)
    specs = "\n".join(spec.model_dump_json() for spec in SPECS)
    subprocess.run(
        [
            sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1",
            "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0",
            str(tmp_path / "worker.py"), str(directory), str(task_dir), str(tmp_path), specs,
        ],
        check=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        timeout=500,
    )  # fmt: skip
    two = load_results(tmp_path)
    one = run_tasks(model, tokenizer, SPECS, include_path=[task_dir], batch_size=4, limit=23)
    assert two.keys() == one.keys()
    for key, result in one.items():
        assert [r.key for r in two[key].records] == [r.key for r in result.records]
        assert [r.score for r in two[key].records] == pytest.approx([r.score for r in result.records], rel=1e-5)
    assert two["tiny_generate"].stats["truncation_rate"] == one["tiny_generate"].stats["truncation_rate"]
    assert json.loads((tmp_path / "results.json").read_text())["tiny_choice"]["n"] == 23


def test_a_changed_file_of_a_served_directory_changes_its_fingerprint(directory: Path) -> None:
    before = directory_fingerprint(directory, {})
    assert directory_fingerprint(directory, {"dtype": "auto"}) != before
    (directory / "README.md").write_text("a card is read by people")
    assert directory_fingerprint(directory, {}) == before
    (directory / "extra.json").write_text("{}")
    assert directory_fingerprint(directory, {}) != before
    (directory / "extra.json").unlink()


def test_a_backend_that_is_unknown_or_absent_is_refused_with_the_cure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DEPTH_PRUNE_RUNTIMES", str(tmp_path))
    with pytest.raises(EvalUsageError, match="vllm is not installed here: run scripts/runtime vllm"):
        check_backend("vllm")
    with pytest.raises(EvalUsageError, match="'gguf': use one of hf, vllm"):
        check_backend("gguf")


def result_with(**stats: Any) -> TaskResult:
    return TaskResult("t", "exact_match", "none", [Record(0, "d", "p", 1.0)], stats=stats)


@pytest.mark.parametrize(
    ("stats", "message"),
    [
        ({"truncation_rate": 0.25}, "answers were cut at a number of tokens.*raise max_gen_toks"),
        ({"overlong_prompts": 2}, "prompts were cut at a number of tokens.*fewer examples"),
    ],
)
def test_another_tokenizer_is_an_error_only_where_a_limit_in_tokens_cut_something(
    stats: dict[str, Any], message: str
) -> None:
    assert pair(result_with(tokenizer="a"), result_with(tokenizer="b", truncation_rate=0.0)).n == 1
    assert pair(result_with(tokenizer="a", **stats), result_with(tokenizer="a", **stats)).n == 1
    with pytest.raises(EvalError, match=message):
        pair(result_with(tokenizer="a"), result_with(tokenizer="b", **stats))
