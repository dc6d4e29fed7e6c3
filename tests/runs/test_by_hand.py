"""A report of steps that were run one by one says what a run's report says of the same files."""

from __future__ import annotations

import json
import shutil

import pytest

import prune
from prune.errors import UsageError
from prune.reporting.data import ReportData
from prune.runs.report import assemble


@pytest.fixture(scope="module")
def steps(finished, tmp_path_factory):
    """The finished run's files as single steps would have left them."""
    run, root = finished[1], tmp_path_factory.mktemp("steps")
    shutil.copytree(run / "analysis", root / "depth")
    shutil.copytree(run / "pruned/14", root / "cut")
    shutil.copytree(run / "healed/14", root / "healed")
    shutil.copy(run / "plans/14.json", root / "my_plan.json")
    for stage, name in (("pruned", "cut"), ("healed", "healed")):
        target = root / f"evidence_{name}"
        shutil.copytree(run / f"evidence/gate/{stage}-14", target)
        found = json.loads((target / "evidence.json").read_text(encoding="utf8"))
        (target / "evidence.json").write_text(json.dumps({**found, "candidate_model": name}), encoding="utf8")
    return root


def test_it_has_the_run_s_figures(finished, steps):
    whole = assemble(finished[1])
    prune.report(steps)
    found = ReportData.load(steps / "report.json")
    assert (
        [c.key for c in found.candidates]
        == [c.key for c in whole.candidates]
        == ["16-original", "14-pruned", "14-healed"]
    )
    for mine, theirs in zip(found.candidates, whole.candidates, strict=True):
        assert (mine.keep, mine.drop) == (theirs.keep, theirs.drop)
        assert mine.evidence == theirs.evidence
        assert mine.parameters == theirs.parameters
        assert (mine.heal_seconds, mine.heal_tokens) == (theirs.heal_seconds, theirs.heal_tokens)
    assert found.analysis == whole.analysis
    assert [plan.keep for plan in found.plans] == [plan.keep for plan in whole.plans]
    assert [row.evidence for row in found.verdicts] == [row.evidence for row in whole.verdicts]
    assert {line.code for line in found.not_measured} == {"missing_cost"}


def test_what_is_missing_is_said(steps, tmp_path):
    shutil.copytree(steps / "depth", tmp_path / "analysis")
    for lang in ("en", "ja"):
        prune.report(tmp_path, lang=lang)
        found = ReportData.load(tmp_path / "report.json")
        assert [line.code for line in found.not_measured] == ["missing_plan", "missing_evidence"]
    assert (found.ship, found.candidates, found.exported) == ("FAIL", [], None)


def test_evidence_of_a_candidate_of_unknown_depth_is_named_not_guessed(steps, tmp_path):
    shutil.copytree(steps / "evidence_cut", tmp_path / "lone")
    shutil.copytree(steps / "depth", tmp_path / "analysis")
    prune.report(tmp_path)
    found = ReportData.load(tmp_path / "report.json")
    assert [line.code for line in found.not_measured] == ["missing_cost", "missing_plan", "missing_place"]
    assert found.verdicts == []


def test_an_empty_folder_is_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(UsageError, match="nor an analysis, a plan or evidence"):
        prune.report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_report_written_again_keeps_the_run_s_date(finished):
    state = json.loads((finished[1] / "state.json").read_text(encoding="utf8"))
    again = assemble(finished[1])
    assert again.generated_at == max(stage["done"] for stage in state["stages"].values())
    assert again.generated_at.endswith(" UTC")
