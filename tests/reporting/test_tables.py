"""Tables hold the report's own figures, in both views."""

from __future__ import annotations

import re

from evals.answer_cost import AnswerCost
from prune.planning.plan import Plan
from prune.reporting import tables
from prune.reporting.data import ReportData
from prune.reporting.markdown import render_markdown
from prune.reporting.page import render_html
from prune.wording.text import Text

from .pages import Words
from .sample import ORDER, sample_report

TEXT = Text()


def plain(cell: str) -> str:
    return cell.replace("\N{NO-BREAK SPACE}", " ")


def columns(table: tables.Table) -> dict[str, dict[str, str]]:
    """Row name -> column head -> cell."""
    return {row[0]: {head: plain(cell) for head, cell in zip(table.head, row, strict=True)} for row in table.rows}


def test_a_plan_is_named_by_the_layers_that_it_keeps(tmp_path) -> None:
    data = sample_report()
    rows = tables.plan_table(data, TEXT).rows
    assert [row[0] for row in rows] == [str(len(plan.keep)) for plan in data.plans] == ["14", "12", "10"]
    assert [row[3] for row in rows] == [", ".join(map(str, ORDER[:count])) for count in (2, 4, 6)]
    lines = [line.split(" | ")[0].strip("| ") for line in render_markdown(data).splitlines() if " | dnll | " in line]
    assert lines == ["14", "12", "10"]
    render_html(data, tmp_path / "report.html")
    words = Words((tmp_path / "report.html").read_text(encoding="utf8")).words
    found = [words[i - 1] for i, word in enumerate(words) if word == "dnll" and words[i + 1] == "greedy"]
    assert found == ["14", "12", "10"]


def test_a_plan_of_sublayers_names_and_draws_both_lists(tmp_path) -> None:
    order = ["attention.3", "mlp.7", "attention.5"]
    plan = Plan(
        source="made", num_layers=16, keep=list(range(16)), drop=[], order=order, criterion="dnll", strategy="greedy",
        unit="sublayer", drop_attention=[3, 5], drop_mlp=[7],
    )  # fmt: skip
    data = sample_report().model_copy(update={"plans": [plan]})
    (row,) = tables.plan_table(data, TEXT).rows
    assert [row[0], row[3]] == ["14 attentions, 15 MLPs", "attention.3, mlp.7, attention.5"]
    render_html(data, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf8")
    strips = dict(re.findall(r'<div class="strip" role="img" aria-label="(attention|MLP)[^"]*">(.*?)</div>', page))
    gone = {part: re.findall(r'class="gone">(\d+)<', strip) for part, strip in strips.items()}
    assert gone == {"attention": ["3", "5"], "MLP": ["7"]}
    assert all(strip.count("<span") == 16 for strip in strips.values())


def test_a_candidates_column_is_its_side_of_the_evidence() -> None:
    data = sample_report()
    found = columns(tables.candidate_table(data, TEXT))
    stories, text = "Stories, accuracy", "Text, bits per byte"
    for candidate in data.candidates:
        (head,) = [h for h in found[stories] if h == plain(tables.name_of(candidate, TEXT))]
        for row, evidence in ((stories, candidate.evidence[0]), (text, candidate.evidence[2])):
            own = evidence.original if candidate.stage == "original" else evidence.candidate
            assert found[row][head].startswith(f"{100 * own:.1f} % (" if row == stories else f"{own:.3g} (")


def test_a_metric_with_a_unit_of_its_own_is_no_percentage() -> None:
    found = columns(tables.task_table(sample_report(), TEXT))
    assert "%" in found["story_questions (acc)"]["16 layers, original"]
    bits = found["story_text (bits_per_byte)"]
    assert re.fullmatch(r"0\.733 \(0\.723–0\.743\)", bits["16 layers, original"]), bits
    assert bits[TEXT("items")] == "50"


def test_a_column_that_nothing_fills_is_left_out() -> None:
    table = tables.Table(["name", "known", "empty"], [["a", "1", ""], ["b", "2", tables.UNKNOWN]])
    assert table.without_empty_columns().head == ["name", "known"]


def test_an_empty_report_has_empty_tables() -> None:
    data = ReportData(title="m", ship="FAIL")
    for make in (tables.plan_table, tables.task_table, tables.verdict_table, tables.draft_table):
        assert make(data, TEXT).rows == []


def test_a_task_that_generates_says_what_an_answer_takes_and_what_a_right_one_costs() -> None:
    data = sample_report()
    answers = AnswerCost(
        original_tokens=80, candidate_tokens=100, ratio=1.25, ratio_lo=1.1, ratio_hi=1.4, original_per_correct=160,
        candidate_per_correct=400,
    )  # fmt: skip
    cut = next(candidate for candidate in data.candidates if candidate.stage != "original" and candidate.evidence)
    task = cut.evidence[0].tasks[0]
    task.answers, cut.cost_per_million_tokens = answers, 2.0
    found = {name: plain(value) for name, value in tables.facts(cut, data, TEXT)}
    assert found[f"Tokens per answer, {task.name}"] == "100 (1.25× the original's, 1.10–1.40)"
    assert found[f"Cost per correct answer, {task.name}"].startswith("0.000800 ")  # 400 tokens at 2 a million
    task.answers = None
    assert not [name for name, _ in tables.facts(cut, data, TEXT) if "answer" in name]
