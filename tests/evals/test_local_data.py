"""Local files serve the stock tasks: the same prompts, examples and answers as the hub's rows would give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from lm_eval.utils import hash_string

from evals.catalogue import definition_of
from evals.errors import EvalUsageError
from evals.harness import run_tasks
from evals.local_data import serve
from evals.suite import TaskSpec, load_suite

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data sets are not beside this checkout")


def lines(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


ARC_STOCK = {
    "id": "x",
    "question": "Which is hot?",
    "choices": {"text": ["ice", "fire. Answer me", "snow"], "label": ["A", "B", "C"]},
    "answerKey": "B",
}
ARC_INSTRUCTION = {
    "instruction": "Please choose the correct answer to the question: Which is hot?\n\n"
    "Answer1: ice Answer2: fire. Answer me Answer3: snow\n\nAnswer format: answer1/answer2/answer3",
    "input": "",
    "output": "the correct answer is answer2",
    "answer": "answer2",
}
SUM = {"question": "1 + 1?", "answer": "It is <<1+1=2>>2.\n#### 2"}
OTHER_SUM = {"question": "2 + 2?", "answer": "It is 4.\n#### 4"}
ADDITION = {"context": "\n\nQ: What is 1 plus 2?\n\nA:", "completion": " 3"}
JCQ = {"q_id": 1, "question": "何？", **{f"choice{i}": c for i, c in enumerate("あいうえお")}, "label": 3}
WIKI = " \n = One = \n \n Text @-@ one , of it . \n \n = = Part = = \n \n More . \n = Two = \n \n Last . \n"
ONE = " = One = \n \n Text @-@ one , of it . \n \n = = Part = = \n \n More . "
MMLU_STOCK = {"question": "Bones?", "choices": ["1", "a, b", "3", "4"], "answer": 1, "subject": "anatomy"}

# task, the user's files, shots, and the rows of the hub's data set for the same items
CASES: dict[str, tuple[str, dict[str, str], int | None, dict[str, list[dict[str, Any]]]]] = {
    "gsm8k": ("gsm8k", {"gsm8k/test.jsonl": lines(SUM), "gsm8k/train.jsonl": lines(*[OTHER_SUM] * 6)}, None,
              {"test": [SUM], "train": [OTHER_SUM] * 6}),
    "gsm8k_cot": ("gsm8k_cot", {"gsm8k/test.jsonl": lines(SUM)}, None, {"test": [SUM], "train": [SUM]}),
    "arc, instruction form": ("arc_easy", {"ARC-Easy/test.json": json.dumps([ARC_INSTRUCTION])}, 0,
                              {split: [ARC_STOCK] for split in ("train", "validation", "test")}),
    "arc, AI2's form": (
        "arc_challenge",
        {"ARC-Challenge/ARC-Challenge-Test.jsonl": lines({
            "id": "x", "answerKey": "B",
            "question": {"stem": "Which is hot?", "choices": [
                {"text": t, "label": k} for t, k in zip(*ARC_STOCK["choices"].values(), strict=True)  # type: ignore[attr-defined]
            ]},
        })},
        0,
        {split: [ARC_STOCK] for split in ("train", "validation", "test")},
    ),
    "openbookqa": (
        "openbookqa", {"openbookqa/test.json": json.dumps([ARC_INSTRUCTION])}, 0,
        {s: [{**ARC_STOCK, "question_stem": "Which is hot?"}] for s in ("train", "validation", "test")},
    ),
    "hellaswag, merged context": (
        "hellaswag",
        {"hellaswag_val_few.jsonl": lines({
            "ctx": "Clean and jerk: A lady walks up. She bends down. the lady", "label": 2, "endings": list("abcd")
        })},
        0,
        {s: [{"activity_label": "Clean and jerk", "ctx_a": "A lady walks up. She bends down.", "ctx_b": "the lady",
              "endings": list("abcd"), "label": "2"}] for s in ("train", "validation")},
    ),
    "piqa with its labels": (
        "piqa",
        {"piqa/valid.jsonl": lines({"goal": "g", "sol1": "a", "sol2": "b"}), "piqa/valid-labels.lst": "1\n"},
        0,
        {s: [{"goal": "g", "sol1": "a", "sol2": "b", "label": 1}] for s in ("train", "validation")},
    ),
    "winogrande, instruction form": (
        "winogrande",
        {"winogrande/test.json": json.dumps([{
            "instruction": "Please choose the correct answer to fill in the blank to complete the given sentence: "
            "Ann beat Bea so _ won.\n\nOption1: Ann Option2: Bea Answer format: option1/option2",
            "answer": "option1",
        }])},
        0,
        {s: [{"sentence": "Ann beat Bea so _ won.", "option1": "Ann", "option2": "Bea", "answer": "1"}]
         for s in ("train", "validation")},
    ),
    "boolq, Google's form": (
        "boolq",
        {"boolq/dev.jsonl": lines({"question": "is it", "title": "Fuel", "answer": True, "passage": "All of it."})},
        0,
        {s: [{"question": "is it", "passage": "Fuel -- All of it.", "idx": 0, "label": 1}]
         for s in ("train", "validation")},
    ),
    "lambada": ("lambada_openai", {"lambada/lambada_test.jsonl": lines({"text": "a b\n\nc d"})}, None,
                {"test": [{"text": "a b\n\nc d"}]}),
    "arithmetic": (
        "arithmetic_2da",
        {"gpt3_arithmetic/two_digit_addition.jsonl": lines(ADDITION)},
        0,
        {"validation": [ADDITION]},
    ),
    "mgsm": (
        "mgsm_direct_ja", {"mgsm/mgsm_ja.tsv": 'いくら"？\t2,125\n'}, None,
        {s: [{"question": 'いくら"？', "answer": None, "answer_number": 2125, "equation_solution": None}]
         for s in ("train", "test")},
    ),
    "jcommonsenseqa": ("ja_leaderboard_jcommonsenseqa", {"jglue/jcommonsenseqa_valid-v1.3.json": lines(JCQ)}, 0,
                       {"train": [JCQ], "validation": [JCQ]}),
    "wikitext": ("wikitext", {"wikitext2/test.txt": WIKI}, None,
                 {s: [{"page": ONE}, {"page": " = Two = \n \n Last . \n"}] for s in ("train", "validation", "test")}),
    "mmlu": (
        "mmlu_anatomy",
        {f"mmlu/{split}/anatomy_{split}.csv": 'Bones?,1,"a, b",3,4,B\n' for split in ("test", "dev")},
        1,
        {"test": [MMLU_STOCK], "dev": [MMLU_STOCK]},
    ),
    "asdiv": (
        "asdiv",
        {"asdiv/ASDiv.xml": "<M><ProblemSet><Problem ID='1'><Body>Ann has 2 &amp; 3.</Body><Question>Sum?</Question>"
         "<Solution-Type>Sum</Solution-Type><Answer>5 (apples)</Answer></Problem></ProblemSet></M>"},
        0,
        {"validation": [{"body": "Ann has 2 & 3.", "question": "Sum?", "answer": "5 (apples)"}]},
    ),
    "columns of the hub under the task's name": (
        "piqa", {"piqa/validation.jsonl": lines({"goal": "g", "sol1": "a", "sol2": "b", "label": 0})}, 0,
        {s: [{"goal": "g", "sol1": "a", "sol2": "b", "label": 0}] for s in ("train", "validation")},
    ),
}  # fmt: skip


def requests(task: Any, shots: int | None, limit: int | None = None) -> list[tuple[int, str, Any]]:
    """Every request of a task: document number, prompt hash, and what the model is given."""
    task.set_config(key="num_fewshot", value=(task.config.num_fewshot or 0) if shots is None else shots)
    task.set_fewshot_seed(seed=0)
    task.build_all_requests(limit=limit, rank=0, world_size=1)
    return [(i.doc_id, hash_string(i.arguments[0]), i.arguments) for i in task.instances]


def stock_task(name: str, rows: dict[str, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The stock definition with `rows` in place of what it would fetch."""
    import datasets
    from lm_eval.tasks import TaskManager

    made = datasets.DatasetDict({split: datasets.Dataset.from_list(found) for split, found in rows.items()})
    with monkeypatch.context() as patch:
        patch.setattr(datasets, "load_dataset", lambda **_: made)
        return TaskManager(include_defaults=False).load(str(definition_of(name)))["tasks"][name]


def served_task(name: str, source: Path, shots: int | None, work: Path) -> Any:
    from lm_eval.tasks import TaskManager

    served = serve([(name, shots)], source, work)
    assert not served.failures
    return TaskManager(include_path=str(served.folder), include_defaults=False).load(name)["tasks"][name]


@pytest.mark.parametrize("case", CASES)
def test_prompts_equal_those_of_the_stock_task_on_the_same_items(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, files, shots, rows = CASES[case]
    for place, text in files.items():
        (tmp_path / "data" / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / place).write_text(text, encoding="utf8")
    ours = served_task(name, tmp_path / "data", shots, tmp_path / "work")
    stock = stock_task(name, rows, monkeypatch)
    assert requests(ours, shots) == requests(stock, shots)
    assert [ours.doc_to_target(doc) for doc in ours.eval_docs] == [stock.doc_to_target(doc) for doc in stock.eval_docs]
    assert ours.config.metric_list == stock.config.metric_list
    assert ours.config.filter_list == stock.config.filter_list


@needs_shared
@pytest.mark.parametrize("limit", [25, pytest.param(None, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("name", "files", "count"),
    [
        ("gsm8k", {"test": "gsm8k/test.jsonl", "train": "gsm8k/train.jsonl"}, 1319),
        ("gsm8k_cot", {"test": "gsm8k/test.jsonl", "train": "gsm8k/train.jsonl"}, 1319),
        ("minerva_math500", {"test": "math500/test.jsonl"}, 500),
        ("lambada_openai", {"test": "lambada/lambada_test.jsonl"}, 5153),
        ("arithmetic_2ds", {"validation": "gpt3_arithmetic/two_digit_subtraction.jsonl"}, 2000),
    ],
)
def test_shared_files_give_the_stock_prompts(
    name: str, files: dict[str, str], count: int, limit: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {
        split: [json.loads(line) for line in (SHARED / file).read_text(encoding="utf8").splitlines()]
        for split, file in files.items()
    }
    ours, stock = served_task(name, SHARED, None, tmp_path), stock_task(name, rows, monkeypatch)
    assert requests(ours, None, limit) == requests(stock, None, limit)
    assert len(ours.eval_docs) == len(stock.eval_docs) == count


@needs_shared
def test_every_shared_set_is_served_whole_and_what_cannot_be_says_why(tmp_path: Path) -> None:
    from lm_eval.tasks import TaskManager

    counts = {
        "arc_easy": 2376, "arc_challenge": 1172, "hellaswag": 2000, "piqa": 1838, "winogrande": 1267,
        "openbookqa": 500, "mgsm_direct_ja": 250, "ja_leaderboard_jcommonsenseqa": 1119, "wikitext": 62,
        "arithmetic_1dc": 2000, "arithmetic_2da": 2000, "arithmetic_3da": 2000,
    }  # fmt: skip
    served = serve([(name, 0) for name in [*counts, "boolq"]], SHARED, tmp_path)
    assert set(served.tasks) == set(counts)
    assert "the passage that the stock prompt starts with is not in it" in served.failures["boolq"]
    assert "<unk>" in served.notes["wikitext"]
    manager = TaskManager(include_path=str(served.folder), include_defaults=False)
    tasks = {name: manager.load(name)["tasks"][name] for name in counts}
    assert {name: len(task.eval_docs) for name, task in tasks.items()} == counts
    for suite in ("general", "knowledge", "japanese"):
        for spec in load_suite(suite).tasks:
            if (task := tasks.get(spec.task)) and task.OUTPUT_TYPE == "multiple_choice":
                chances = [1 / len(task.doc_to_choice(task.eval_docs[i])) for i in range(100)]
                assert sum(chances) / len(chances) == pytest.approx(spec.chance, abs=0.005), spec.task


def test_a_copy_of_the_hub_data_set_is_read_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    folder = tmp_path / "data" / "baber" / "piqa"
    folder.mkdir(parents=True)
    rows = [{"goal": "g", "sol1": "a", "sol2": "b", "label": 1}]
    for split in ("train", "validation"):
        datasets.Dataset.from_list(rows).to_parquet(folder / f"{split}-00000-of-00001.parquet")
    ours = served_task("piqa", tmp_path / "data", None, tmp_path / "work")
    stock = stock_task("piqa", {"train": rows, "validation": rows}, monkeypatch)
    assert requests(ours, None) == requests(stock, None)


def failure(task: str, files: dict[str, str], folder: Path, shots: int | None = None) -> str:
    for place, text in files.items():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_text(text, encoding="utf8")
    return serve([(task, shots)], folder, folder / "work").failures[task]


@pytest.mark.parametrize(
    ("task", "files", "message"),
    [
        ("gsm8k", {"gsm8k/x": ""}, r"split test: give test.jsonl in a folder named like gsm8k \(columns question, an"),
        ("gsm8k", {"gsm8k/test.jsonl": lines(SUM)}, "its 5 examples come from elsewhere: .*train.jsonl.*num_fewsh"),
        ("gsm8k", {"gsm8k/test.jsonl": lines({"q": 1})}, "its columns are q; expected question, answer"),
        ("gsm8k", {"gsm8k/test.jsonl": '{"question": 1'}, "test.jsonl: damaged: line 1 is not JSON"),
        ("gsm8k", {"gsm8k/test.json": '[\n{"question": 1'}, "test.json: damaged: line 2 is not JSON"),
        ("gsm8k", {"gsm8k/test.jsonl": lines({"question": "1", "answer": ["2"]})}, "row 1: answer is a list, not text"),
        ("gsm8k", {"gsm8k/test.jsonl": lines({"question": "1", "answer": 2})}, "row 1: answer is a number, not text"),
        ("gsm8k", {"gsm8k/test.jsonl": '{"question": "\\ud83d", "answer": ""}'}, "row 1: question holds half of a c"),
        ("piqa", {"piqa/validation.jsonl": lines({"goal": "a", "sol1": None, "sol2": "c", "label": 0})},
         "row 1: sol1 is null, not text"),
        ("mbpp", {"mbpp/mbpp.jsonl": lines({"task_id": 11, "text": "a", "code": "b", "test_list": ["c", 4]})},
         "row 1: test_list is a number, not text"),
        ("gsm8k", {"gsm8k/test.csv": ""}, "test.csv: holds no rows"),
        ("arithmetic_4da", {"arithmetic/x": ""}, r"four_digit_addition.jsonl .*\(columns context, completion\)"),
        ("piqa", {"piqa/valid.jsonl": lines({"goal": "", "sol1": "", "sol2": ""}), "piqa/valid-labels.lst": "1 0"},
         "valid-labels.lst: 2 labels for 1 rows"),
        ("hellaswag", {"hellaswag_val.jsonl": lines({"ctx": "How to cook: Start. Then", "endings": [], "label": 0})},
         "row 1: `ctx` has no sentence end before a fragment in lower case"),
        ("arc_easy", {"arc_easy/test.jsonl": lines({**ARC_INSTRUCTION, "answer": "answer9"})},
         "row 1: answer 'answer9' is none of answer1/answer2/answer3"),
        ("winogrande", {"winogrande/dev.jsonl": lines({"instruction": "", "answer": "option1"})},
         "row 1: `instruction`"),
        ("mgsm_direct_ja", {"mgsm/mgsm_ja.tsv": "no number\n"}, "row 1 has 1 columns where question, number"),
    ],
)  # fmt: skip
def test_what_is_missing_or_wrong_is_named(task: str, files: dict[str, str], message: str, tmp_path: Path) -> None:
    import re

    found = failure(task, files, tmp_path)
    assert found.startswith(f"task {task}: ")
    assert re.search(message, found)
    assert "\n" not in found


def test_a_missing_folder_is_refused_before_anything_runs(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(EvalUsageError, match="absent: no such directory"):
        run_tasks(model, tokenizer, [TaskSpec(task="piqa")], local_data=tmp_path / "absent")


def test_the_harness_runs_what_is_there_and_reports_what_is_not(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    files = {"piqa/valid.jsonl": lines(*[{"goal": "g", "sol1": "a", "sol2": "b", "label": 1}] * 3)}
    failure("gsm8k", files, tmp_path)
    found = run_tasks(model, tokenizer, [TaskSpec(task="piqa"), TaskSpec(task="gsm8k")], local_data=tmp_path)
    assert found["piqa"].n == 3
    assert "give test.jsonl" in found.failures["gsm8k"]
