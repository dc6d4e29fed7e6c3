"""ReportData: round trip, refusals, derived figures."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from prune.errors import UsageError
from prune.reporting.data import AnalysisView, Candidate, ReportData

from .sample import sample_analysis, sample_report


def test_a_report_survives_saving_and_loading(tmp_path: Path) -> None:
    data = sample_report()
    data.save(tmp_path / "report.json")
    assert ReportData.load(tmp_path / "report.json") == data


def test_non_finite_numbers_become_null(tmp_path: Path) -> None:
    measured = Candidate(num_layers=2, stage="original", decode_speedup=float("nan"), perplexity={"s": float("inf")})
    data = ReportData(
        title="m", ship="FAIL", candidates=[measured],
        provenance={"deep": [float("inf"), {"x": float("nan")}]},
    )  # fmt: skip
    data.save(tmp_path / "report.json")
    stored = json.loads((tmp_path / "report.json").read_text())
    assert stored["candidates"][0]["decode_speedup"] is None
    assert stored["candidates"][0]["perplexity"] == {"s": None}
    assert stored["provenance"] == {"deep": [None, {"x": None}]}


def test_candidates_are_sorted_deepest_first_and_must_be_unique() -> None:
    data = sample_report()
    shuffled = ReportData(title="m", ship="PASS", candidates=data.candidates[::-1])
    assert [c.key for c in shuffled.candidates] == [c.key for c in data.candidates]
    assert data.candidates[0].key == "16-original"
    with pytest.raises(ValidationError, match="may appear once"):
        ReportData(title="m", ship="PASS", candidates=[data.candidates[0]] * 2)


def test_the_floor_is_chance_plus_retention_of_what_lies_above_it() -> None:
    data = sample_report()
    original = data.original
    assert original is not None
    original.evidence[0].chance = 0.25
    accuracy = original.suites["stories"].value
    assert accuracy is not None
    assert data.floor_score("stories") == pytest.approx(0.25 + 0.95 * (accuracy - 0.25))
    assert data.floor_score("unknown") is None


def test_at_the_floor_a_text_costs_the_original_s_bits_over_the_floor() -> None:
    data = sample_report()
    data.verdicts[0].evidence = next(c for c in data.candidates if c.key == "12-healed").evidence[2]
    assert data.original is not None
    bits = data.original.suites["text"].value
    assert data.floor_score("text") == pytest.approx(bits / 0.95)


@pytest.mark.parametrize("content", [None, "{", '{"title": "x"}', '{"title": "x", "ship": "PASS", "colour": 1}'])
def test_a_bad_file_is_refused_with_its_name(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "report.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UsageError, match=r"report\.json"):
        ReportData.load(path)


def test_the_analysis_view_keeps_arrays_and_names_domains() -> None:
    analysis = sample_analysis()
    view = AnalysisView.from_analysis(analysis)
    assert view.domains == ["arithmetic", "stories"]
    row = view.get("block_influence", "stories")
    assert row == pytest.approx(analysis.of_domain("block_influence", "stories").tolist(), rel=1e-5)
    assert view.get("lens/top5") is None


def test_f38_a_token_in_the_recipe_does_not_reach_report_json(tmp_path):
    token = "hf_" + "a1B2" * 9
    data = sample_report()
    data.recipe = f"model: x  # {token}"
    data.save(tmp_path / "report.json")
    assert token not in (tmp_path / "report.json").read_text(encoding="utf8")
