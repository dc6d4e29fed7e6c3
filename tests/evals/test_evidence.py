"""Evidence survives the disk, and holds the fields that other programs rely on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evals.errors import EvalError
from evals.evidence import Evidence
from evals.gate import judge
from evals.records import Record, TaskResult
from evals.suite import Suite, TaskSpec


def result_of(scores: list[int]) -> TaskResult:
    records = [
        Record(i, f"d{i}", f"p{i}", float(s), {"response": f"it is {s}", "target": "1"}) for i, s in enumerate(scores)
    ]
    return TaskResult("t", "exact_match", "strict", records, stats={"truncation_rate": 0.25})


@pytest.fixture
def evidence() -> Evidence:
    spec = TaskSpec(task="t", metric="exact_match", filter="strict")
    empty = Suite(name="at_chance", tasks=[spec.model_copy(update={"chance": 0.9})])
    found = judge(
        {"t": result_of([1, 1, 0] * 9)}, {"t": result_of([1, 0, 1] * 9)}, [Suite(name="s", tasks=[spec]), empty]
    )
    found.original_model, found.candidate_model = "deep", "shallow"
    found.cost = {"original": {"parameters": 7}}
    return found


def test_evidence_survives_the_disk(evidence: Evidence, tmp_path: Path) -> None:
    evidence.save(tmp_path)
    loaded = Evidence.load(tmp_path)
    assert loaded == evidence
    assert loaded.samples == evidence.samples


def test_the_contracts_fields_stand_in_the_file(evidence: Evidence, tmp_path: Path) -> None:
    evidence.save(tmp_path)
    written = json.loads((tmp_path / "evidence.json").read_text())
    assert written["overall"] in {"PASS", "FAIL", "INCONCLUSIVE"}
    assert written["cost"] == {"original": {"parameters": 7}}
    for row in [*written["suites"], *(task for suite in written["suites"] for task in suite["tasks"])]:
        assert {
            "n", "original", "candidate", "chance", "retention", "retention_lo", "retention_hi", "p", "verdict",
            "items_needed",
        } <= row.keys()  # fmt: skip
    task = written["suites"][0]["tasks"][0]
    assert (task["metric"], task["lost"], task["gained"], task["n"]) == ("exact_match", 9, 9, 27)
    assert task["original_stats"] == {"truncation_rate": 0.25}


def test_numbers_that_do_not_exist_are_null(evidence: Evidence, tmp_path: Path) -> None:
    evidence.save(tmp_path)
    text = (tmp_path / "evidence.json").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert json.loads(text)["suites"][1]["retention"] is None


def test_samples_show_both_models_answers_side_by_side(evidence: Evidence, tmp_path: Path) -> None:
    evidence.save(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "samples" / "t.jsonl").read_text().splitlines()]
    assert len(rows) == 27
    assert rows[1] == {
        "doc_id": 1,
        "doc_hash": "d1",
        "prompt_hash": "p1",
        "original": 1.0,
        "candidate": 0.0,
        "target": "1",
        "original_response": "it is 1",
        "candidate_response": "it is 0",
    }


def test_a_suite_that_was_not_judged_is_named_among_those_that_were(evidence: Evidence) -> None:
    with pytest.raises(EvalError, match="'maths' was not judged; there are s, at_chance"):
        evidence.suite("maths")


def test_missing_and_damaged_evidence_says_what_to_do(evidence: Evidence, tmp_path: Path) -> None:
    with pytest.raises(EvalError, match="no such file; run the evaluation"):
        Evidence.load(tmp_path)
    evidence.save(tmp_path)
    (tmp_path / "evidence.json").write_text((tmp_path / "evidence.json").read_text()[:-40])
    with pytest.raises(EvalError, match="not an evidence file"):
        Evidence.load(tmp_path)


def test_the_verdict_is_the_overall_one():
    for overall in ("PASS", "FAIL", "INCONCLUSIVE"):
        assert Evidence(overall=overall, suites=[], alpha=0.05, seed=0, bootstrap=200).verdict == overall
