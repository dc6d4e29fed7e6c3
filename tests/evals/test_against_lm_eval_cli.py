"""lm-eval's own command line, same model, tasks and seed: the same scores to the last digit, the same prompts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from evals.harness import run_tasks
from evals.suite import TaskSpec

GENERATED = {
    "task": "demo_generated_sums",
    "include": "demo_arithmetic_2da.yaml",
    "output_type": "generate_until",
    "num_fewshot": 0,  # and lm-eval's --num_fewshot leaves a task alone that says 0 itself
    "generation_kwargs": {"until": ["\n", ";"], "do_sample": False, "max_gen_toks": 12},
    "filter_list": [
        {"name": "number", "filter": [{"function": "regex", "regex_pattern": "(-?\\d+)"}, {"function": "take_first"}]},
        {"name": "raw", "filter": [{"function": "take_first"}]},
    ],
    "metric_list": [
        {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True, "regexes_to_ignore": [" "]}
    ],
}
SPECS = [
    TaskSpec(task="demo_arithmetic_1dc", metric="acc", num_fewshot=2),
    TaskSpec(task="demo_story_questions", metric="acc", num_fewshot=2),
    TaskSpec(task="demo_stories", metric="bits_per_byte"),
    TaskSpec(task="demo_stories", metric="word_perplexity", name="words"),
    TaskSpec(task="demo_generated_sums", metric="exact_match", filter="number", num_fewshot=0),
    TaskSpec(task="demo_generated_sums", metric="exact_match", filter="raw", name="raw", num_fewshot=0),
]
LIMIT, BATCH, SEED = 30, 8, 3


@pytest.mark.slow
def test_scores_equal_those_of_lm_evals_command_line(demo_model: Path, tmp_path: Path) -> None:
    from prune.model.loading import load_model, load_tokenizer

    embedded = demo_model.parent
    tasks = tmp_path / "tasks"
    shutil.copytree(embedded / "tasks", tasks)
    shutil.copytree(embedded / "data" / "eval", tmp_path / "data" / "eval")
    for path in tasks.glob("demo_*.yaml"):
        path.unlink()
    for path in list(tasks.glob("*.yaml")):
        path.rename(path.with_name(f"demo_{path.name}"))
    (tasks / "demo_generated_sums.yaml").write_text(yaml.safe_dump(GENERATED))
    names = sorted({spec.task for spec in SPECS})
    subprocess.run(
        [
            sys.executable, "-m", "lm_eval", "run", "--model", "hf",
            "--model_args", f"pretrained={demo_model},dtype=float32", "--device", "cpu",
            "--tasks", *names, "--include_path", str(tasks), "--num_fewshot", "2",
            "--batch_size", str(BATCH), "--limit", str(LIMIT), "--seed", str(SEED),
            "--output_path", str(tmp_path / "theirs"), "--log_samples",
        ],
        check=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"},
        capture_output=True,
    )  # fmt: skip
    (written,) = (tmp_path / "theirs").rglob("results_*.json")
    theirs = json.loads(written.read_text())["results"]
    ours = run_tasks(
        load_model(str(demo_model), dtype="float32"),
        load_tokenizer(str(demo_model)),
        SPECS,
        include_path=[tasks],
        limit=LIMIT,
        batch_size=BATCH,
        seed=SEED,
    )
    for spec in SPECS:
        assert ours[spec.key].value == theirs[spec.task][f"{spec.metric},{spec.filter}"], spec.key
        (samples,) = (tmp_path / "theirs").rglob(f"samples_{spec.task}_*.jsonl")
        rows = [json.loads(line) for line in samples.read_text().splitlines()]
        hashes = {r["doc_id"]: r["prompt_hash"] for r in rows if r["filter"] == spec.filter}
        assert {r.doc_id: r.prompt_hash for r in ours[spec.key].records} == hashes
    assert ours["demo_generated_sums"].value > 0  # agreement on nothing but wrong answers would say little
