"""Prompts of a suite: those that lm-eval puts, in turn from each task, as token ids."""

from __future__ import annotations

import json

import pytest
from transformers import AutoTokenizer

from evals.errors import EvalError
from evals.prompts import suite_prompts
from evals.suite import TaskSpec
from prune.embedded import HERE, MODEL

TASKS = [TaskSpec(task="demo_arithmetic_2da"), TaskSpec(task="demo_stories", metric="bits_per_byte")]


def rows(name: str) -> list[dict]:
    return [json.loads(line) for line in (HERE / f"data/eval/{name}.jsonl").read_text(encoding="utf8").splitlines()]


def test_prompts_are_the_tasks_own_and_alternate(capfd):
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    found = suite_prompts(TASKS, tokenizer, count=6, include_path=[HERE / "tasks"])
    sums = [tokenizer(row["context"])["input_ids"] for row in rows("arithmetic_2da")[:6]]
    texts = [tokenizer(row["text"])["input_ids"][:16] for row in rows("stories")[:6]]
    expected = []
    for ids in (ids for pair in zip(sums, texts, strict=True) for ids in pair):
        if ids not in expected:  # stories may begin alike
            expected.append(ids)
    assert found == expected[:6]
    assert capfd.readouterr().err == ""


def test_prompts_that_do_not_fit_are_left_out():
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    found = suite_prompts(TASKS, tokenizer, count=4, include_path=[HERE / "tasks"], max_tokens=12)
    assert all(len(ids) <= 12 for ids in found)
    with pytest.raises(EvalError, match="no prompt fits into 2 tokens"):
        suite_prompts(TASKS, tokenizer, count=4, include_path=[HERE / "tasks"], max_tokens=2)
