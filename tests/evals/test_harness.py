"""The harness gives lm-eval's own scores, keeps every item, and never answers from another model's cache."""

from __future__ import annotations

import copy
import json
import os
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from evals.errors import EvalError, EvalUsageError
from evals.fingerprint import fingerprint
from evals.harness import run_tasks
from evals.records import TaskResult, load_results
from evals.silence import silenced
from evals.suite import Suite, TaskSpec, load_suite
from evals.suite_choice import check_tasks

SPECS = [
    TaskSpec(task="tiny_choice", metric="acc", chance=0.25),
    TaskSpec(task="tiny_choice", metric="acc_norm", name="tiny_choice_norm", chance=0.25),
    TaskSpec(task="tiny_loglikelihood", metric="acc"),
    TaskSpec(task="tiny_loglikelihood", metric="perplexity", name="tiny_perplexity"),
    TaskSpec(task="tiny_rolling", metric="bits_per_byte"),
    TaskSpec(task="tiny_rolling", metric="word_perplexity", name="tiny_words"),
    TaskSpec(task="tiny_generate", metric="exact_match", filter="any-letter", num_fewshot=0),
    TaskSpec(task="tiny_generate", metric="exact_match", filter="raw", name="tiny_raw", num_fewshot=0),
]


@pytest.fixture(scope="module")
def results(model: Any, tokenizer: Any, task_dir: Path) -> dict[str, TaskResult]:
    return run_tasks(model, tokenizer, SPECS, include_path=[task_dir], batch_size=4)


def test_scores_equal_lm_evals_own_to_the_last_digit(
    results: dict[str, TaskResult], model: Any, tokenizer: Any, task_dir: Path
) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    seeds = dict.fromkeys(("random_seed", "numpy_random_seed", "torch_random_seed", "fewshot_random_seed"), 0)
    theirs = simple_evaluate(
        HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4),
        tasks=sorted({spec.task for spec in SPECS}),
        task_manager=TaskManager(include_path=str(task_dir), include_defaults=False),
        bootstrap_iters=0,
        **seeds,
    )
    assert theirs is not None
    for spec in SPECS:
        mine = results[spec.key]
        assert mine.value == pytest.approx(theirs["results"][spec.task][f"{spec.metric},{spec.filter}"], rel=1e-12)
        rows = {row["doc_id"]: row for row in theirs["samples"][spec.task] if row["filter"] == spec.filter}
        assert [(r.doc_hash, r.prompt_hash) for r in mine.records] == [
            (rows[r.doc_id]["doc_hash"], rows[r.doc_id]["prompt_hash"]) for r in mine.records
        ]


def test_every_item_is_kept_and_perplexities_carry_their_weights(
    results: dict[str, TaskResult], task_dir: Path
) -> None:
    assert {result.n for result in results.values()} == {24}
    rows = [json.loads(line) for line in (task_dir / "items.jsonl").read_text().splitlines()]
    assert [r.weight for r in results["tiny_rolling"].records] == [len(row["text"].encode()) for row in rows]
    assert not results["tiny_rolling"].higher_is_better
    assert results["tiny_choice"].higher_is_better


def test_generation_reports_how_answers_ended(results: dict[str, TaskResult]) -> None:
    stats = results["tiny_raw"].stats
    assert stats["max_gen_toks"] == 8
    assert stats["overlong_prompts"] == 0
    assert 0.0 <= stats["truncation_rate"] <= 1.0
    assert all("response" in record.extra for record in results["tiny_raw"].records)


def test_a_result_survives_the_disk(results: dict[str, TaskResult], tmp_path: Path) -> None:
    for result in results.values():
        result.save(tmp_path)
    assert load_results(tmp_path) == results
    assert load_results(tmp_path, only="tiny_raw") == {"tiny_raw": results["tiny_raw"]}


def test_the_callers_random_state_is_left_as_it_was(model: Any, tokenizer: Any, task_dir: Path) -> None:
    def drawn() -> list[float]:
        return [random.random(), float(np.random.rand()), float(torch.rand(()))]

    def seed() -> None:
        random.seed(7), np.random.seed(7), torch.manual_seed(7)

    seed()
    undisturbed = drawn()
    for own in (0, 1):  # whatever the run's own seed
        seed()
        run_tasks(model, tokenizer, [TaskSpec(task="tiny_choice")], include_path=[task_dir], limit=2, seed=own)
        assert drawn() == undisturbed


def test_the_cache_answers_only_the_model_that_filled_it(
    model: Any, other_model: Any, tokenizer: Any, task_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import evals.harness

    runs: list[str] = []
    evaluate = evals.harness._evaluate

    def counting(lm: Any, leaves: Any, specs: Any, *rest: Any) -> Any:
        runs.append(specs[0].task)
        return evaluate(lm, leaves, specs, *rest)

    monkeypatch.setattr(evals.harness, "_evaluate", counting)
    specs = [TaskSpec(task="tiny_loglikelihood", metric="perplexity")]
    settings: dict[str, Any] = {"include_path": [task_dir], "cache_dir": tmp_path}
    first = run_tasks(model, tokenizer, specs, **settings)
    assert run_tasks(model, tokenizer, specs, **settings) == first
    assert len(runs) == 1
    other = run_tasks(other_model, tokenizer, specs, **settings)
    assert len(runs) == 2
    assert other["tiny_loglikelihood"].value != first["tiny_loglikelihood"].value
    run_tasks(model, tokenizer, specs, limit=5, **settings)
    assert len(runs) == 3


@pytest.mark.parametrize("multiturn", [True, False])
def test_chat_template_turns_and_system_text_give_lm_evals_prompts(
    model: Any, tokenizer: Any, task_dir: Path, multiturn: bool
) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    chatty = copy.deepcopy(tokenizer)
    chatty.chat_template = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}[assistant] "
    options: dict[str, Any] = {
        "apply_chat_template": True, "fewshot_as_multiturn": multiturn, "system_instruction": "Be short.", "limit": 4,
    }  # fmt: skip
    seeds = dict.fromkeys(("random_seed", "numpy_random_seed", "torch_random_seed", "fewshot_random_seed"), 5)
    theirs = simple_evaluate(
        HFLM(pretrained=model, tokenizer=chatty, batch_size=4),
        tasks=["tiny_generate"],
        num_fewshot=2,
        gen_kwargs={"max_gen_toks": 5},
        task_manager=TaskManager(include_path=str(task_dir), include_defaults=False),
        bootstrap_iters=0,
        **options,
        **seeds,
    )
    assert theirs is not None
    spec = TaskSpec(task="tiny_generate", metric="exact_match", filter="raw", num_fewshot=2)
    settings: dict[str, Any] = {"include_path": [task_dir], "batch_size": 4, "seed": 5, "log_samples": True}
    ours = run_tasks(model, chatty, [spec], gen_kwargs={"max_gen_toks": 5}, **options, **settings)["tiny_generate"]
    rows = [row for row in theirs["samples"]["tiny_generate"] if row["filter"] == "raw"]
    assert [r.prompt_hash for r in ours.records] == [row["prompt_hash"] for row in rows]
    assert [r.extra["response"] for r in ours.records] == [row["resps"][0][0] for row in rows]
    prompt = ours.records[0].extra["arguments"][0][0]
    assert prompt.startswith("[system] Be short.")
    assert prompt.count("[user]") == (3 if multiturn else 1)


REFUSES_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}[assistant] "
)
SKIPS_SYSTEM = (
    "{% for m in messages if m['role'] != 'system' %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}[assistant] "
)
ONE = TaskSpec(task="tiny_generate", metric="exact_match", filter="raw", num_fewshot=0)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (REFUSES_SYSTEM, "refuses this conversation .System role not supported"),
        (SKIPS_SYSTEM, "leaves system messages"),
    ],
)
def test_an_instruction_that_the_template_would_drop_is_refused(
    model: Any, tokenizer: Any, task_dir: Path, template: str, reason: str
) -> None:
    chatty = copy.deepcopy(tokenizer)
    chatty.chat_template = template
    options: dict[str, Any] = {"include_path": [task_dir], "apply_chat_template": True, "limit": 2}
    with pytest.raises(
        EvalUsageError, match=f"system_instruction: the tokenizer's chat template {reason}.*leave it out"
    ):
        run_tasks(model, chatty, [ONE], system_instruction="Be short.", **options)
    assert "tiny_generate" in run_tasks(model, chatty, [ONE], **options)


@pytest.mark.parametrize("template", [REFUSES_SYSTEM, SKIPS_SYSTEM])
def test_a_tasks_own_description_that_the_template_drops_is_noted(
    model: Any, tokenizer: Any, task_dir: Path, tmp_path: Path, template: str
) -> None:
    chatty = copy.deepcopy(tokenizer)
    chatty.chat_template = template
    described = {"include": str(task_dir / "tiny_generate.yaml"), "task": "described", "description": "Answer well."}
    (tmp_path / "described.yaml").write_text(yaml.safe_dump(described))
    spec = ONE.model_copy(update={"task": "described"})
    options: dict[str, Any] = {"include_path": [tmp_path], "apply_chat_template": True, "limit": 2}
    results = run_tasks(model, chatty, [spec], **options)
    assert results["described"].stats["left_out"] == ["the system message: the chat template takes none"]
    assert "left out of its prompts: the system message" in results.notes["described"]


def test_an_instruction_is_no_part_of_running_text_and_that_is_noted(
    model: Any, tokenizer: Any, task_dir: Path
) -> None:
    spec = TaskSpec(task="tiny_rolling", metric="bits_per_byte")
    results = run_tasks(model, tokenizer, [spec], include_path=[task_dir], limit=2, system_instruction="Be short.")
    assert "system_instruction: running text is scored as it is" in results.notes["tiny_rolling"]


@pytest.mark.parametrize("task", ["tiny_choice", "tiny_generate", "tiny_rolling"])
def test_a_token_without_an_embedding_row_is_named(model: Any, tokenizer: Any, task_dir: Path, task: str) -> None:
    rows, letters = int(model.get_input_embeddings().weight.shape[0]), "abcdefghijklmnopqrstuvwxyz"
    other = copy.deepcopy(tokenizer)
    assert other.add_tokens([first + second for first in letters for second in letters]) == 676
    spec = next(spec for spec in SPECS if spec.task == task)
    with pytest.raises(EvalError, match=rf"holds token id \d+ \('.*'\), the model has {rows} embedding rows: the tok"):
        run_tasks(model, other, [spec], include_path=[task_dir], limit=4)


def test_what_lm_eval_says_about_cut_input_is_kept_and_the_rest_is_not(capfd: pytest.CaptureFixture[str]) -> None:
    import logging

    log = logging.getLogger("lm_eval.models.huggingface")
    with silenced() as heard:
        for length in (700, 800):
            log.warning(f"Left truncation applied. Original sequence length was {length}. Some content will be lost.")
        log.warning("Passed an already-initialized model")
        log.info("Truncating is not said as a warning here")
    assert heard == ["Left truncation applied. Original sequence length was 700. Some content will be lost."]
    assert capfd.readouterr().err == ""


def test_one_changed_weight_changes_the_fingerprint(model: Any, tokenizer: Any) -> None:
    changed = copy.deepcopy(model)
    assert fingerprint(changed, tokenizer) == fingerprint(model, tokenizer)
    changed.model.layers[1].mlp.up_proj.weight.data[0, 0] += 1e-6
    assert fingerprint(changed, tokenizer) != fingerprint(model, tokenizer)


def test_a_failing_task_never_costs_the_finished_ones(
    model: Any, tokenizer: Any, task_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken.yaml").write_text(
        "task: broken\ndataset_path: json\ndataset_kwargs: {data_files: {test: absent.jsonl}}\ntest_split: test\n"
        "output_type: loglikelihood\ndoc_to_text: '{{a}}'\ndoc_to_target: '{{b}}'\nmetric_list: [{metric: acc}]\n"
    )
    specs = [TaskSpec(task="broken"), TaskSpec(task="tiny_loglikelihood")]
    found = run_tasks(model, tokenizer, specs, include_path=[task_dir, tmp_path], limit=3)
    assert list(found) == ["tiny_loglikelihood"]
    assert "broken" in found.failures["broken"]
    assert "\n" not in found.failures["broken"]


def test_tasks_that_load_their_own_rows_run_quietly_and_are_cached(
    model: Any, tokenizer: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The demo's tasks: a custom_dataset function beside the YAML file, one of them rolling."""
    (tmp_path / "rows.py").write_text(
        "import datasets\n\n\ndef load(count, **_):\n"
        "    rows = [{'context': f'{i} + 1 =', 'completion': f' {i + 1}'} for i in range(count)]\n"
        "    return datasets.DatasetDict({'validation': datasets.Dataset.from_list(rows)})\n"
    )
    common = (
        "custom_dataset: !function rows.load\ndataset_kwargs: {count: 6}\nvalidation_split: validation\n"
        "metadata: {version: 1.0}\ntarget_delimiter: ''\n"
    )
    (tmp_path / "own.yaml").write_text(
        f"task: own\n{common}output_type: loglikelihood\ndoc_to_text: '{{{{context}}}}'\n"
        "doc_to_target: '{{completion}}'\nmetric_list: [{metric: acc}]\n"
    )
    (tmp_path / "own_rolling.yaml").write_text(
        f"task: own_rolling\n{common}output_type: loglikelihood_rolling\ndoc_to_text: ''\n"
        "doc_to_target: '{{context}}'\nmetric_list: [{metric: bits_per_byte}]\n"
    )
    specs = [TaskSpec(task="own"), TaskSpec(task="own_rolling", metric="bits_per_byte")]
    settings: dict[str, Any] = {"include_path": [tmp_path], "cache_dir": tmp_path / "cache"}
    first = run_tasks(model, tokenizer, specs, **settings)
    assert {name: result.n for name, result in first.items()} == {"own": 6, "own_rolling": 6}
    assert not first["own_rolling"].higher_is_better
    assert capfd.readouterr() == ("", "")
    assert run_tasks(model, tokenizer, specs, **settings) == first
    assert len(list((tmp_path / "cache").glob("*/*"))) == 2


def test_ones_own_items_are_scored_as_their_kind_says(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    """Every kind against a naive reading: the model's own likelihoods and its own generated text."""
    import torch

    rows = [
        {"prompt": f"n {i}:", "choices": [" a", " bb", " c"], "answer": i % 3, "text": f"some text {i}"}
        for i in range(6)
    ]
    greedy = []
    for row in rows:
        ids = tokenizer(row["prompt"], return_tensors="pt").input_ids
        out = model.generate(ids, max_new_tokens=8, do_sample=False, pad_token_id=1)[0, ids.shape[1] :]
        greedy.append(tokenizer.decode(out, skip_special_tokens=True).split("\n\n")[0])
    for row, text in zip(rows, greedy, strict=True):
        found = re.findall(r"([A-Za-z])", text)
        row["letter"] = found[-1] if found and row["answer"] else "none"
        row["digits"] = "1,000"
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "suite.yaml").write_text(
        "tasks:\n"
        "  - {jsonl: mine.jsonl, kind: multiple_choice, name: choice}\n"
        "  - {jsonl: mine.jsonl, kind: exact, name: exact, answer: letter}\n"
        "  - {jsonl: mine.jsonl, kind: regex, name: letters, answer: letter, regex: '([A-Za-z])', max_gen_toks: 8}\n"
        "  - {jsonl: mine.jsonl, kind: numeric, name: numbers, answer: digits, max_gen_toks: 8}\n"
    )
    found = run_tasks(model, tokenizer, load_suite(tmp_path / "suite.yaml").tasks, batch_size=1)
    letters = [float(re.findall(r"([A-Za-z])", t)[-1:] == [row["letter"]]) for t, row in zip(greedy, rows, strict=True)]
    assert [r.score for r in found["letters"].records] == letters
    assert 0 < sum(letters) < 6

    def log_likelihood(prompt: str, answer: str) -> float:
        whole, start = tokenizer(prompt + " " + answer).input_ids, len(tokenizer(prompt).input_ids)
        with torch.no_grad():
            scores = model(torch.tensor([whole])).logits[0].log_softmax(-1)  # [T, V]
        return sum(float(scores[t - 1, whole[t]]) for t in range(start, len(whole)))

    best = [max(range(3), key=lambda i, r=row: log_likelihood(r["prompt"], r["choices"][i])) for row in rows]  # type: ignore[misc]
    assert [r.score for r in found["choice"].records] == [
        float(b == r["answer"]) for b, r in zip(best, rows, strict=True)
    ]
    assert found["numbers"].value == 0.0
    assert found["exact"].n == 6


def test_two_suites_may_share_a_task(model: Any, tokenizer: Any, task_dir: Path) -> None:
    shared = [TaskSpec(task="tiny_loglikelihood"), TaskSpec(task="tiny_loglikelihood", report_only=True)]
    assert list(run_tasks(model, tokenizer, shared, include_path=[task_dir], limit=2)) == ["tiny_loglikelihood"]


@pytest.mark.parametrize(
    ("task", "metric"),
    [("tiny_rolling", "bits_per_byte"), ("tiny_loglikelihood", "acc"), ("tiny_generate", "exact_match")],
)
def test_nan_is_an_error_not_a_figure(model: Any, tokenizer: Any, task_dir: Path, task: str, metric: str) -> None:
    broken = copy.deepcopy(model)
    broken.model.norm.weight.data[:] = float("nan")
    with pytest.raises(EvalError, match="NaN"):
        run_tasks(broken, tokenizer, [TaskSpec(task=task, metric=metric)], include_path=[task_dir], limit=2)


@pytest.mark.parametrize(
    ("specs", "settings", "message"),
    [
        ([], {}, "no tasks"),
        ([TaskSpec(task="a"), TaskSpec(task="a", metric="acc_norm")], {}, "two results under one name"),
        ([TaskSpec(task="a")], {"limit": 0}, "at least one item"),
        ([TaskSpec(task="a")], {"apply_chat_template": True}, "no chat template"),
        ([TaskSpec(task="a")], {"fewshot_as_multiturn": True}, "turns need a chat template"),
        ([TaskSpec(task="tiny_choice", metric="exact_match")], {}, "it has acc,none, acc_norm,none"),
    ],
)
def test_wrong_requests_say_what_is_wrong(
    model: Any, tokenizer: Any, task_dir: Path, specs: list[TaskSpec], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(EvalUsageError, match=message):
        run_tasks(model, tokenizer, specs, include_path=[task_dir], **settings)


@pytest.mark.slow
def test_an_unknown_task_names_its_neighbours(model: Any, tokenizer: Any, task_dir: Path) -> None:
    with pytest.raises(EvalUsageError, match=r"unknown task 'tiny_choise' \(did you mean 'tiny_choice'"):
        run_tasks(model, tokenizer, [TaskSpec(task="tiny_choise")], include_path=[task_dir])


def test_tasks_that_run_generated_code_need_leave_and_nothing_of_them_runs_without(
    model: Any, tokenizer: Any, task_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_ALLOW_CODE_EVAL", raising=False)
    stock = yaml.safe_load((task_dir / "tiny_generate.yaml").read_text())
    (tmp_path / "runs_code.yaml").write_text(yaml.safe_dump(stock | {"task": "runs_code", "unsafe_code": True}))
    specs = [TaskSpec(task="runs_code", metric="exact_match", filter="raw")]
    settings: dict[str, Any] = {"include_path": [tmp_path], "limit": 3}
    with pytest.raises(EvalUsageError, match=r"^runs_code: scoring runs the code .* say confirm_run_unsafe_code"):
        run_tasks(model, tokenizer, specs, **settings)
    assert "HF_ALLOW_CODE_EVAL" not in os.environ
    found = run_tasks(model, tokenizer, specs, confirm_run_unsafe_code=True, **settings)
    assert found["runs_code"].n == 3
    monkeypatch.delenv("HF_ALLOW_CODE_EVAL")
    for named in ("humaneval", "mbpp"):
        with pytest.raises(EvalUsageError, match=f"^{named}: scoring runs the code"):
            check_tasks([Suite(name="s", tasks=[TaskSpec(task=named)])], [], None)
