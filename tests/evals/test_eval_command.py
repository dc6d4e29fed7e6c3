"""`prune eval`: what it writes, what a kill costs, and what it says before anything runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import evals.harness
from evals.answer_cost import AnswerCost
from evals.errors import EvalError, EvalUsageError, nearest
from evals.evidence import Evidence, SuiteEvidence
from evals.settings import EvalSettings
from prune.api import eval as prune_eval
from prune.api._inputs import load_suites
from prune.cli.commands.eval import _answers, _remarks
from prune.errors import UsageError
from prune.packaging.manifest import weights_sha256
from prune.settings import validated
from tests.reporting.sample import sample_evidence

TASKS = ["tiny_choice", "tiny_generate"]


@pytest.fixture(scope="module")
def models(model: Any, other_model: Any, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    for name, made in (("model", other_model), ("baseline", model)):
        made.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return {name: str(folder / name) for name in ("model", "baseline")}


def test_a_killed_evaluation_goes_on_and_leaves_only_its_output(
    models: dict[str, str], task_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[str] = []
    real = evals.harness._evaluate

    def counting(lm: Any, leaves: Any, specs: Any, settings: Any) -> Any:
        if len(runs) == 3:
            raise KeyboardInterrupt
        runs.append(specs[0].task)
        return real(lm, leaves, specs, settings)

    arguments: dict[str, Any] = {
        **models,
        "tasks": TASKS,
        "include_path": [str(task_dir)],
        "limit": 10,
        "batch_size": 4,
    }
    with monkeypatch.context() as patch:
        patch.setattr(evals.harness, "_evaluate", counting)
        with pytest.raises(KeyboardInterrupt):
            prune_eval(output=tmp_path / "out", **arguments)
        assert not (tmp_path / "out").exists()
    again: list[str] = []
    monkeypatch.setattr(evals.harness, "_evaluate", lambda *a: (again.append(a[2][0].task), real(*a))[1])
    evidence = prune_eval(output=tmp_path / "out", **arguments)
    assert runs == ["tiny_choice", "tiny_generate", "tiny_choice"]
    assert again == ["tiny_generate"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert evidence == type(evidence).load(tmp_path / "out")  # type: ignore[union-attr]
    (suite,) = json.loads((tmp_path / "out" / "evidence.json").read_text())["suites"]
    assert suite["name"] == "tasks"
    assert [(t["name"], t["chance"], t["n"]) for t in suite["tasks"]] == [
        ("tiny_choice", 0.25, 10), ("tiny_generate", 0.0, 10),
    ]  # fmt: skip
    assert evidence.candidate_sha256 == weights_sha256(Path(models["model"]))  # type: ignore[union-attr]


def test_the_command_says_why_a_suite_is_undecided_and_how_many_items_would_do() -> None:
    undecided = {"n": 200, "original": 0.8, "candidate": 0.78, "chance": 0.0, "floor": 0.95, "verdict": "INCONCLUSIVE"}
    common = {**undecided, "title": "", "tasks": [], "alpha": 0.05}
    suites = [
        SuiteEvidence(name="math", retention=0.97, items_needed=1500, **common),
        SuiteEvidence(name="general", retention=None, note="not above chance", **common),
    ]
    evidence = Evidence(overall="INCONCLUSIVE", suites=suites, alpha=0.05, seed=0, bootstrap=100)
    assert _remarks(evidence) == [
        "general: not above chance",
        "math: about 1,500 items would decide it; 200 were compared",
    ]


def test_the_command_says_what_an_answer_takes_and_what_a_right_one_does() -> None:
    suite = sample_evidence(10, "healed")[0]
    suite.tasks[0].answers = AnswerCost(
        original_tokens=80, candidate_tokens=100, ratio=1.25, ratio_lo=1.1, ratio_hi=1.4, original_per_correct=160,
        candidate_per_correct=None,
    )  # fmt: skip
    found = Evidence(overall="FAIL", suites=[suite], alpha=0.05, seed=0, bootstrap=100)
    assert _answers(found) == [
        f"{suite.tasks[0].name}: 100.0 tokens an answer, 1.25 x the original's (1.10-1.40); for each correct one none,"
        " the original's 160.0"
    ]


def test_samples_hold_documents_and_prompts_when_asked(models: dict[str, str], task_dir: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"include_path": [str(task_dir)], "limit": 2, "log_samples": True}
    prune_eval(output=tmp_path / "out", **models, tasks=["tiny_generate"], **settings)
    rows = (tmp_path / "out" / "baseline" / "samples" / "tiny_generate.jsonl").read_text().splitlines()
    first = json.loads(rows[0])["extra"]
    assert first["arguments"][0][0] == f"Q: {first['doc']['question']}\nA:"
    assert first["arguments"][0][1]["max_gen_toks"] == 8


def test_a_dry_run_says_whether_the_gate_can_decide(models: dict[str, str], task_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("tasks: [{task: tiny_choice, chance: 0.25}]\nquick: 12\n")
    arguments: dict[str, Any] = {**models, "include_path": [str(task_dir)], "dry_run": True}
    found = prune_eval(output=tmp_path / "out", suite=[str(tmp_path / "mine.yaml")], size="quick", **arguments)
    assert isinstance(found, dict)
    assert found["suites"] == {"mine": ["tiny_choice"]}
    assert "with 12 items this gate can" in found["gate_power"][0]
    assert not (tmp_path / "out").exists()


def test_local_data_that_is_missing_stops_the_run_before_it_starts(models: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "data" / "piqa").mkdir(parents=True)
    row = json.dumps({"goal": "g", "sol1": "a", "sol2": "b", "label": 0})
    (tmp_path / "data" / "piqa" / "valid.jsonl").write_text(row + "\n")
    with pytest.raises(EvalUsageError, match=r"test.jsonl in a folder named like gsm8k.*leave out.*tasks piqa$"):
        prune_eval(output=tmp_path / "o", **models, tasks=["piqa", "gsm8k"], local_data=str(tmp_path / "data"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "suite or tasks is missing"),
        ({"suite": ["math"], "size": "tiny"}, "size 'tiny': Input should be 'quick' or 'full'"),
    ],
)
def test_mistakes_are_one_line(models: dict[str, str], tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        prune_eval(output=tmp_path / "out", **models, **settings)


@pytest.mark.parametrize("suite", ["math", "math,general", ["math", "general"]])
def test_one_string_is_one_suite_or_several_with_commas(suite: str | list[str]) -> None:
    expected = suite.split(",") if isinstance(suite, str) else suite
    assert [found.name for found in load_suites(suite, "full")] == expected


def test_flags_are_read_as_lm_eval_reads_them() -> None:
    asked = validated(EvalSettings, {"gen_kwargs": "max_gen_toks=64,temperature=0.5,do_sample=true", "batch_size": "8"})
    assert asked.gen_kwargs == {"max_gen_toks": 64, "temperature": 0.5, "do_sample": True}
    assert asked.batch_size == 8
    assert validated(EvalSettings, {"batch_size": "auto:4"}).batch_size == "auto:4"
    for wrong in ("0", "many", 0):
        with pytest.raises(UsageError, match="batch_size"):
            validated(EvalSettings, {"batch_size": wrong})
    with pytest.raises(UsageError, match="gen_kwargs 'a': write NAME=VALUE"):
        validated(EvalSettings, {"gen_kwargs": "a"})


SHARED = Path(__file__).resolve().parents[3] / "shared"


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data sets and models are not beside this checkout")
def test_gsm8k_and_math500_run_end_to_end_on_a_real_checkpoint(tmp_path: Path) -> None:
    """A 260K model solves nothing; what counts is that every figure of the machinery is there and right."""
    shutil.copytree(SHARED / "models" / "stories260K", tmp_path / "same")
    evidence = prune_eval(
        str(tmp_path / "same"),
        tmp_path / "out",
        baseline=str(SHARED / "models" / "stories260K"),
        suite=["math"],
        tasks=["gsm8k", "minerva_math500"],
        local_data=str(SHARED / "data"),
        limit=12,
        gen_kwargs={"max_gen_toks": 48},
    )
    tasks = {task.name: task for task in evidence.suites[0].tasks}  # type: ignore[union-attr]
    assert {(t.metric, t.filter) for t in tasks.values()} == {
        ("exact_match", "flexible-extract"), ("exact_match", "strict-match"),
        ("math_verify", "none"), ("exact_match", "none"),
    }  # fmt: skip
    assert all(task.n == 12 for task in tasks.values())
    assert all(task.original == task.candidate and task.lost == task.gained == 0 for task in tasks.values())
    assert tasks["gsm8k"].original_stats["num_fewshot"] == 5
    assert tasks["gsm8k"].original_stats["overlong_prompts"] == 12  # five examples do not fit into 512 tokens
    assert tasks["gsm8k"].original_stats["truncation_rate"] > 0.5
    assert evidence.overall == "INCONCLUSIVE"  # type: ignore[union-attr]


def test_an_answer_longer_than_the_context_names_the_setting_to_lower(
    models: dict[str, str], task_dir: Path, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"include_path": [str(task_dir)], "limit": 2, "gen_kwargs": {"max_gen_toks": 10**6}}
    with pytest.raises(EvalError, match="Give gen_kwargs max_gen_toks=N a smaller N"):
        prune_eval(output=tmp_path / "out", **models, tasks=["tiny_generate"], **settings)


def test_a_slip_among_thousands_of_names_gets_the_nearest_ones_only() -> None:
    assert (
        nearest("gsm8", ["gsm8k", *(f"other_{n}" for n in range(1000))])
        == "'gsm8' (did you mean 'gsm8k'? there are 1,001)"
    )
    assert nearest("maht", ["math", "code"]) == "'maht' (did you mean 'math'? valid: code, math)"
