"""Suites are read strictly: every mistake names the file, the field and the nearest valid name."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

from evals.catalogue import definition, definition_of
from evals.errors import EvalUsageError
from evals.suite import Suite, TaskSpec, built_in_suites, load_suite


@pytest.mark.parametrize("name", built_in_suites())
def test_every_built_in_suite_loads_under_its_own_name(name: str) -> None:
    suite = load_suite(name)
    assert suite.name == name
    assert suite.gated
    assert all(0 <= spec.chance < 1 for spec in suite.tasks)


def test_the_suites_named_in_the_design_exist() -> None:
    assert {"general", "knowledge", "math", "code", "japanese", "language"} <= set(built_in_suites())


def test_an_unknown_suite_names_its_neighbours() -> None:
    with pytest.raises(EvalUsageError, match=r"unknown suite 'maths' \(did you mean 'math'\? valid: code, general"):
        load_suite("maths")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tasks: []", "tasks: List should have at least 1 item"),
        ("tasks: [{task: a, metrik: acc}]", r"tasks\.0\.metrik: Extra inputs"),
        ("tasks: [{task: a}, {task: a, metric: acc_norm}]", "a is read twice; give one of them another `name`"),
        ("tasks: [{task: a, report_only: true}]", "every task is report_only"),
        ("tasks: [{task: a}]\nfloor: 0", "floor: Input should be greater than 0"),
        ("- a\n- b", "a suite is a mapping"),
        ("tasks: [{", "not valid YAML"),
    ],
)
def test_a_wrong_suite_file_names_file_and_field(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(EvalUsageError, match=f"{path}: .*{message}"):
        load_suite(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(EvalUsageError, match="no such suite file"):
        load_suite(tmp_path / "absent.yaml")


def test_a_suite_file_is_named_after_itself(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("tasks: [{task: a, metric: acc_norm, chance: 0.25}]")
    suite = load_suite(tmp_path / "mine.yaml")
    assert suite == Suite(name="mine", tasks=[TaskSpec(task="a", metric="acc_norm", chance=0.25)])


def _entries() -> list[TaskSpec]:
    return [spec for name in built_in_suites() for spec in load_suite(name).tasks]


@pytest.mark.parametrize("spec", _entries(), ids=lambda spec: spec.key)
def test_every_task_metric_and_filter_exists_in_the_installed_lm_eval(spec: TaskSpec) -> None:
    path = definition_of(spec.task)
    if path is None:
        assert spec.task in _groups()
        return
    stock = definition(path)
    metrics = {str(found["metric"]).rsplit(".", 1)[-1] for found in stock["metric_list"]}
    assert spec.metric.replace("@1", "_at_k") in metrics
    assert spec.filter in {found["name"] for found in stock.get("filter_list") or [{"name": "none"}]}


def _groups() -> set[str]:
    found = importlib.util.find_spec("lm_eval")
    assert found is not None
    assert found.origin is not None
    files = (Path(found.origin).parent / "tasks" / "mmlu").rglob("*.yaml")
    return {m[1] for file in files if (m := re.search(r"^group: (\w+)$", file.read_text(), re.MULTILINE))}


def test_generation_tasks_state_their_length() -> None:
    for spec in _entries():
        path = definition_of(spec.task)
        if path and definition(path)["output_type"] == "generate_until":
            assert spec.max_gen_toks, spec.key


def test_the_quick_size_cuts_every_task_and_the_full_size_none() -> None:
    suite = load_suite("math")
    assert suite.sized("full") == suite
    limits = {spec.key: spec.limit for spec in suite.sized("quick").tasks}
    assert limits["arithmetic_2da"] == 200
    assert limits["gsm8k"] == limits["gsm8k_strict"] == 100


def test_bare_task_names_are_read_as_the_suites_read_them_or_by_their_first_metric() -> None:
    from evals.suite_choice import choose_suites

    (chosen,) = choose_suites([load_suite("math")], ["gsm8k"], num_fewshot=2)
    assert [(spec.key, spec.num_fewshot) for spec in chosen.tasks] == [("gsm8k", 2), ("gsm8k_strict", 2)]
    (made,) = choose_suites([], ["gsm8k", "sciq"])
    assert made.name == "tasks"
    assert [(s.key, s.metric, s.filter) for s in made.tasks] == [
        ("gsm8k", "exact_match", "flexible-extract"),
        ("gsm8k_strict", "exact_match", "strict-match"),
        ("sciq", "acc", "none"),
    ]


def own_suite(folder: Path, rows: list[dict[str, Any]], entry: str) -> Suite:
    (folder / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "suite.yaml").write_text(f"tasks:\n  - {{jsonl: mine.jsonl, {entry}}}\n")
    return load_suite(folder / "suite.yaml")


CHOICE = {"prompt": "q", "choices": ["a", "b", "c", "d"], "answer": 1}


def test_ones_own_multiple_choice_has_the_chance_of_its_choices(tmp_path: Path) -> None:
    rows = [CHOICE, {**CHOICE, "choices": ["a", "b"], "answer": "b"}]
    (spec,) = own_suite(tmp_path, rows, "kind: multiple_choice, metric: acc_norm").tasks
    assert (spec.key, spec.metric, spec.chance) == ("mine", "acc_norm", 0.375)


@pytest.mark.parametrize(
    ("rows", "entry", "message"),
    [
        ([CHOICE], "kind: multiple", r"tasks\.0\.kind: Input should be 'multiple_choice'"),
        ([CHOICE], "kind: multiple_choice, choices: options", "line 1: no column 'options'; it has prompt, choices"),
        ([CHOICE, {**CHOICE, "answer": 4}], "kind: multiple_choice", "line 2: answer 4 is no number of a choice"),
        ([{**CHOICE, "answer": "x"}], "kind: multiple_choice", "line 1: answer 'x' is not exactly one of the choices"),
        ([{**CHOICE, "choices": "a"}], "kind: multiple_choice", "'choices' must be a list"),
        ([CHOICE], "kind: regex", "`regex` goes with kind: regex"),
        ([CHOICE], "kind: regex, regex: '(('", "regex '\\(\\(': "),
        ([CHOICE], "kind: regex, regex: 'a'", "has 0 groups"),
        ([CHOICE], "kind: exact, metric: bleu", "kind exact has acc"),
        ([CHOICE], "kind: exact, prompt: '{quest}'", "line 1: no column 'quest'"),
        ([{"prompt": "q", "answer": None}], "kind: exact", "line 1: answer is null, not text"),
        ([{"prompt": "q", "answer": ["2", "two"]}], "kind: exact", "line 1: answer is a list, not text"),
        ([{"prompt": "q", "answer": {"a": 1}}], "kind: numeric", "line 1: answer is an object, not text"),
        ([{"prompt": "q", "answer": 2.5}], "kind: numeric", 'answer is a number, not text: write it as text, "2.5"'),
        ([{"prompt": ["q"], "answer": "2"}], "kind: exact", "line 1: prompt is a list, not text"),
        ([{"prompt": None}], "kind: text", "line 1: prompt is null, not text"),
        ([{"prompt": "q \ud83d", "answer": "2"}], "kind: exact", r"prompt holds half of a character \(.ud83d"),
        ([{**CHOICE, "choices": ["a", None]}], "kind: multiple_choice", "line 1: choices: choice 1 is null, not text"),
        ([{**CHOICE, "answer": None}], "kind: multiple_choice", "line 1: answer is null, not text"),
        ([{**CHOICE, "answer": True}], "kind: multiple_choice", "line 1: answer is true or false, not text"),
        (
            [{**CHOICE, "of": None}],
            "kind: multiple_choice, cluster: of",
            "line 1: of is null; what tells clusters apart",
        ),
    ],
)
def test_mistakes_in_ones_own_items_are_named(
    tmp_path: Path, rows: list[dict[str, Any]], entry: str, message: str
) -> None:
    with pytest.raises(EvalUsageError, match=message):
        own_suite(tmp_path, rows, entry)


def test_a_missing_file_of_ones_own_items_is_named(tmp_path: Path) -> None:
    (tmp_path / "suite.yaml").write_text("tasks: [{jsonl: absent.jsonl, kind: exact}]")
    with pytest.raises(EvalUsageError, match=r"absent\.jsonl: no such file"):
        load_suite(tmp_path / "suite.yaml")


@pytest.mark.parametrize(
    ("kind", "answer", "response", "score"),
    [
        ("kind: numeric", "1000", "So 3 of them cost $1,000.00", 1.0),
        ("kind: numeric", "1,000", "it is 1000.", 1.0),
        ("kind: numeric", "100", "it is 1000", 0.0),
        ("kind: numeric", "-5", "3 - 8 = -5", 1.0),
        ("kind: numeric", "0.5", "half, .5 or 0.50", 0.0),
        ("kind: numeric", "5", "no number", 0.0),
        (r"kind: regex, regex: 'ID-(\d+)'", "7", "ID-3, no: ID-7, sum 9", 1.0),
        (r"kind: regex, regex: 'ID-(\d+)'", "7", "7", 0.0),
    ],
)
def test_generated_answers_are_read_by_pattern_or_as_numbers(
    tmp_path: Path, kind: str, answer: str, response: str, score: float
) -> None:
    from lm_eval.tasks import TaskManager

    (spec,) = own_suite(tmp_path, [{"prompt": "q", "answer": answer}], kind).tasks
    task = TaskManager(include_defaults=False).load(spec.definition)["tasks"][spec.task]
    task.build_all_requests(limit=1, rank=0, world_size=1)
    task.instances[0].resps.append(response)
    task.apply_filters()
    found = task.process_results(task.eval_docs[0], [task.instances[0].filtered_resps[spec.filter]])
    assert found[spec.metric] == score
