"""Dependent items are labelled as the suite says or as lm-eval's task is known, and pointed out where neither does."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from evals.catalogue import definition, definition_of
from evals.clusters import KNOWN, cluster_field, cluster_label, looks_clustered
from evals.errors import EvalUsageError
from evals.gate import judge
from evals.harness import run_tasks
from evals.suite import TaskSpec, load_suite

PASSAGE = "The fox went down to the river before the others were awake, and nobody saw it go. "


def rows_of(prompts: list[str], docs: list[dict[str, Any]] | None = None) -> list[dict[str, Any]]:
    docs = docs or [{"id": str(i)} for i in range(len(prompts))]
    return [{"doc": doc, "arguments": [[prompt, " yes"]]} for doc, prompt in zip(docs, prompts, strict=True)]


@pytest.mark.parametrize(
    ("spec", "leaf", "field"),
    [
        (TaskSpec(task="boolq"), "boolq", "passage"),
        (TaskSpec(task="boolq", cluster=""), "boolq", None),
        (TaskSpec(task="arc_easy"), "arc_easy", None),
        (TaskSpec(task="arc_easy", cluster="question"), "arc_easy", "question"),
        (TaskSpec(task="hellaswag"), "hellaswag", None),  # these rows have no source_id
    ],
)
def test_the_suites_word_wins_over_what_is_known(spec: TaskSpec, leaf: str, field: str | None) -> None:
    assert cluster_field(spec, leaf, {"passage": "p", "question": "q"}) == field


def test_a_field_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(EvalUsageError, match="cluster 'pasage': no such field; its items have passage, question"):
        cluster_field(TaskSpec(task="t", cluster="pasage"), "t", {"passage": "p", "question": "q"})


@pytest.mark.parametrize(
    ("task", "field"), [("boolq", "passage"), ("drop", "passage"), ("multirc", "paragraph"), ("gsm8k", "question")]
)
def test_known_fields_are_those_the_stock_prompt_reads(task: str, field: str) -> None:
    assert next(found for pattern, found in KNOWN if re.fullmatch(pattern, task)) == field
    path = definition_of(task)
    assert path is not None
    assert re.search(rf"\b{field}\b", str(definition(path)["doc_to_text"]))


def test_labels_are_equal_where_the_text_is() -> None:
    assert cluster_label({"a": "x "}, "a") == cluster_label({"b": "x"}, "b") != cluster_label({"a": "y"}, "a")


def test_repeated_passages_are_pointed_out_with_the_field_to_name() -> None:
    docs = [{"passage": f"{i // 3} {PASSAGE}", "question": f"q{i}"} for i in range(30)]
    found = looks_clustered("t", rows_of([f"{i}" for i in range(30)], docs), 5)
    assert "30 items have only 10 different texts in 'passage'" in found
    assert "`cluster: passage`" in found


def test_prompts_with_one_opening_are_pointed_out_unless_all_share_it_or_examples_precede_it() -> None:
    prompts = [f"{i // 3} {PASSAGE} Question {i}" for i in range(30)]
    assert "prompts of its 30 items have only 10 different openings" in looks_clustered("t", rows_of(prompts), 0)
    assert looks_clustered("t", rows_of(prompts), 5) == ""
    assert looks_clustered("t", rows_of([f"{PASSAGE} Question {i}" for i in range(30)]), 0) == ""


def test_categories_and_lone_items_do_not_look_clustered() -> None:
    instruction = [{"instruction": PASSAGE + str(i % 2), "question": f"q{i}"} for i in range(300)]
    assert looks_clustered("t", rows_of([f"{i}" for i in range(300)], instruction), 0) == ""
    alone = [{"passage": f"{i} {PASSAGE}"} for i in range(30)]
    assert looks_clustered("t", rows_of([f"{i}" for i in range(30)], alone), 0) == ""


@pytest.mark.parametrize("cluster", ["", ", cluster: story"])
def test_ones_own_stories_are_judged_by_the_story_or_pointed_out(
    tmp_path: Path, model: Any, other_model: Any, tokenizer: Any, cluster: str
) -> None:
    items = [{"story": f"{i // 4} {PASSAGE}", "prompt": f"Q{i}:", "answer": " a"} for i in range(24)]
    (tmp_path / "stories.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    entry = f'{{jsonl: stories.jsonl, kind: exact, prompt: "{{story}}{{prompt}}"{cluster}}}'
    (tmp_path / "suite.yaml").write_text(f"tasks:\n  - {entry}\n")
    suite = load_suite(tmp_path / "suite.yaml")
    assert suite.tasks[0].items_per_cluster == (4 if cluster else 1)
    results = [run_tasks(each, tokenizer, suite.tasks) for each in (model, other_model)]
    evidence = judge(results[0], results[1], [suite])
    found = evidence.suite("suite")
    assert (found.n, found.units) == (24, 6 if cluster else 24)
    warned = "24 items have only 6 different openings"
    assert (warned in found.note) == (warned in results[0].notes.get("own_stories", "")) == (not cluster)


def test_a_wrong_cluster_is_found_before_the_model_works(
    model: Any, tokenizer: Any, task_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "forward", None)
    spec = TaskSpec(task="tiny_choice", cluster="passage")
    with pytest.raises(EvalUsageError, match="its items have question, choices, label, answer, text"):
        run_tasks(model, tokenizer, [spec], include_path=[task_dir])
