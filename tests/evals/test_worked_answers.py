"""The likelihood of worked answers equals a naive reading of it, and the gate names it where generating says little."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evals.gate import judge
from evals.harness import run_tasks
from evals.records import Record, TaskResult
from evals.suite import Suite, TaskSpec, load_suite
from evals.suite_choice import check_tasks

SUMS = [
    {
        "question": f"Ann has {n} pears and buys {n + 3}. How many?",
        "answer": f"{n} + {n + 3} = <<{n}+{n + 3}={2 * n + 3}>>{2 * n + 3}\n#### {2 * n + 3}",
    }
    for n in range(7)
]
PROBLEMS = [{"problem": f"Find ${n}^2$.", "solution": f"It is $\\boxed{{{n * n}}}$" + " indeed" * n} for n in range(5)]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for name, rows in (("gsm8k", SUMS), ("math500", PROBLEMS)):
        (tmp_path / name).mkdir()
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / name / "test.jsonl").write_text(text, encoding="utf8")
    return tmp_path


@torch.no_grad()
def log_likelihood(model: Any, tokenizer: Any, prompt: str, continuation: str) -> float:
    """Nats, by the model's own forward pass on one text, token after token."""
    start, ids = len(tokenizer(prompt)["input_ids"]), tokenizer(prompt + continuation)["input_ids"]
    log_p = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return sum(log_p[at - 1, ids[at]].item() for at in range(start, len(ids)))


def test_scores_equal_the_models_own_likelihood_of_the_solutions(model: Any, tokenizer: Any, files: Path) -> None:
    suite = load_suite("worked_answers")
    assert check_tasks([suite], (), files) == []
    found = run_tasks(model, tokenizer, suite.tasks, local_data=files, batch_size=3)
    expected = {
        "gsm8k_solutions": [(f"Question: {row['question']}\nAnswer:", row["answer"]) for row in SUMS],
        "math500_solutions": [(f"Problem:\n{row['problem']}\n\nSolution:", row["solution"]) for row in PROBLEMS],
    }
    for task, items in expected.items():
        nats = [log_likelihood(model, tokenizer, prompt, f" {solution}") for prompt, solution in items]
        sizes = [len(solution.encode()) for _, solution in items]
        records = found[task].records
        assert [record.score for record in records] == pytest.approx(nats, rel=1e-5)
        assert [record.extra["weight"] for record in records] == sizes
        assert found[task].value == pytest.approx(-sum(nats) / (math.log(2) * sum(sizes)), rel=1e-5)
        assert not found[task].higher_is_better


def test_the_same_gate_judges_them(model: Any, other_model: Any, tokenizer: Any, files: Path) -> None:
    suite = load_suite("worked_answers")
    original, candidate = (run_tasks(m, tokenizer, suite.tasks, local_data=files) for m in (model, other_model))
    evidence = judge(original, candidate, [suite]).suite("worked_answers")
    expected = sum(original[key].value for key in original) / sum(candidate[key].value for key in candidate)
    assert evidence.retention == pytest.approx(expected)
    assert evidence.retention_lo < evidence.retention < evidence.retention_hi
    assert evidence.n == len(SUMS) + len(PROBLEMS)


def generated(task: str, score: float, kind: str = "generate_until") -> TaskResult:
    right = np.arange(200) < 200 * score
    records = [Record(i, f"d{i}", f"p{i}", float(one), {"response": "x"}) for i, one in enumerate(right)]
    return TaskResult(task, "exact_match", "none", records, stats={"output_type": kind})


@pytest.mark.parametrize(
    ("task", "score", "kind", "says"),
    [
        ("gsm8k", 0.025, "generate_until", "worked_answers"),
        ("gsm8k", 0.0, "generate_until", "worked_answers"),
        ("humaneval", 0.0, "generate_until", "near chance"),
        ("gsm8k", 0.6, "generate_until", ""),
        ("arithmetic_2da", 0.025, "loglikelihood", ""),
    ],
)
def test_an_original_near_chance_on_generated_mathematics_is_told_of_the_suite(
    task: str, score: float, kind: str, says: str
) -> None:
    suite = Suite(name="s", tasks=[TaskSpec(task=task, metric="exact_match")])
    result = {task: generated(task, score, kind)}
    worse = {task: generated(task, score * 0.96, kind)}
    found = judge(result, worse, [suite]).suite("s")
    assert found.verdict == "INCONCLUSIVE"
    assert ("near chance" in found.note) == ("near chance" in found.tasks[0].note) == bool(says)
    assert says in found.note
    assert ("worked_answers" in found.note) == (says == "worked_answers")


def test_a_decided_verdict_says_nothing_of_it() -> None:
    suite = Suite(name="s", tasks=[TaskSpec(task="gsm8k", metric="exact_match")])
    found = judge({"gsm8k": generated("gsm8k", 0.08)}, {"gsm8k": generated("gsm8k", 0.0)}, [suite]).suite("s")
    assert found.verdict == "FAIL"
    assert "near chance" not in found.note
