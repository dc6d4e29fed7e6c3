"""The report of a finished run: every figure is one that a stage wrote, in JSON, tables and first screen alike."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import prune
from evals.records import load_results
from prune.errors import UsageError
from prune.reporting import tables
from prune.reporting.data import ReportData
from prune.runs.report import assemble
from prune.wording.text import Text

TEXT = Text()


@pytest.fixture(scope="module")
def report(finished) -> tuple[Path, ReportData]:
    return finished[1], assemble(finished[1])


def read(path: Path):
    return json.loads(path.read_text(encoding="utf8"))


def cells(table: tables.Table) -> dict[str, list[str]]:
    return {row[0]: [cell.replace("\N{NO-BREAK SPACE}", " ") for cell in row[1:]] for row in table.rows}


def test_suites_and_tasks_are_the_gates_figures(report):
    root, data = report
    heads = ["original", "pruned-14", "healed-14"]
    shown, tasks = cells(tables.candidate_table(data, TEXT)), cells(tables.task_table(data, TEXT))
    pruned, healed = (read(root / "evidence/gate" / name / "evidence.json")["suites"] for name in heads[1:])
    for first, second in zip(pruned, healed, strict=True):
        share = all(task["higher_is_better"] for task in first["tasks"])
        values = [first["original"], first["candidate"], second["candidate"]]
        ends = [(first["original_lo"], first["original_hi"]), (first["candidate_lo"], first["candidate_hi"]),
                (second["candidate_lo"], second["candidate_hi"])]  # fmt: skip
        row = shown[f"{first['title']}, {'accuracy' if share else 'bits per byte'}"]
        for cell, value, (lo, hi) in zip(row, values, ends, strict=True):
            assert ("%" in cell) == share
            assert [float(n) for n in re.findall(r"\d+\.\d+", cell)] == [
                pytest.approx(figure * (100 if share else 1), rel=2e-3, abs=0.0501 if share else 0)
                for figure in (value, lo, hi)
            ]
        for task, other in zip(first["tasks"], second["tasks"], strict=True):
            name = f"{task['name']} ({task['metric']})"
            records = {head: load_results(root / "evidence" / head)[task["name"]] for head in heads}
            assert tasks[name][0] == str(records["original"].n) == str(task["n"])
            for cell, head in zip(tasks[name][1:], heads, strict=True):
                value = records[head].value  # from the single answers, not from the gate
                assert float(re.match(r"[\d.]+", cell)[0]) == pytest.approx(
                    value * (100 if "%" in cell else 1), rel=5e-3, abs=0.0501
                )
            assert other["original"] == task["original"]


def test_plans_sizes_and_speeds_are_those_of_the_runs_files(report):
    root, data = report
    plan, costs = read(root / "plan.json"), read(root / "evidence/cost.json")
    ((depth, criterion, strategy, order),) = tables.plan_table(data, TEXT).rows
    assert (int(depth), criterion, strategy) == (len(plan["keep"]), plan["criterion"], plan["strategy"])
    assert order == ", ".join(map(str, plan["order"]))
    for candidate in data.candidates:
        row = costs["original" if candidate.stage == "original" else "14"]
        assert (candidate.parameters, candidate.bytes) == (row["parameters"], row["bytes"])
        assert candidate.decode_tokens_per_s == row["throughput"]["decode_tokens_per_s"]
    healed = data.candidate(14, "healed")
    assert healed.heal_seconds == read(root / "healed/14/healing.json")["seconds"]
    assert healed.bytes == sum(path.stat().st_size for path in (root / "healed/14").glob("*.safetensors"))


def test_the_verdict_is_the_first_line_and_that_of_the_evidence(finished, report):
    _, root, result = finished
    verdicts = {s["name"]: s["verdict"] for s in read(root / "evidence/evidence.json")["suites"]}
    titles = {s["name"]: s["title"] for s in read(root / "evidence/evidence.json")["suites"]}
    first = (root / "report.md").read_text(encoding="utf8").splitlines()[0]
    assert result.choice.refused  # the recipe asks more of mathematics than a dozen items can show
    for name in result.choice.passed:
        assert verdicts[name] == "PASS"
        assert titles[name] in re.search(r"Use 14 of 16 layers for ([^.]*)\.", first)[1]
    for name in result.choice.refused:
        assert verdicts[name] != "PASS"
        assert titles[name] not in re.search(r"Use 14 of 16 layers for ([^.]*)\.", first)[1]
    page = (root / "report.html").read_text(encoding="utf8")
    assert first.split(": ", 1)[1].replace("\\", "") in page
    assert "http-equiv" in page
    rows = cells(tables.verdict_table(report[1], TEXT))
    assert {name: rows[titles[name]][0] for name in verdicts} == {
        name: TEXT(f"verdict_{verdict}") for name, verdict in verdicts.items()
    }


def test_the_saved_report_is_what_is_assembled_again(report):
    root, data = report
    saved = ReportData.load(root / "report.json")
    assert saved.model_dump(exclude={"generated_at", "provenance", "recipe"}) == data.model_dump(
        exclude={"generated_at", "provenance", "recipe"}
    )
    evidence = read(root / "evidence/evidence.json")
    assert evidence["cost"]["original"] == read(root / "evidence/cost.json")["original"]


def test_a_dry_run_of_the_report_checks_and_writes_nothing(finished, tmp_path):
    _, root, _ = finished
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
    found = prune.report(root, lang="ja", dry_run=True)
    assert found["html"] == str(root / "report.html")
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()} == before
    with pytest.raises(UsageError, match="language"):
        prune.report(root, lang="xx", dry_run=True)
    with pytest.raises(UsageError, match=r"no recipe\.yaml there"):
        prune.report(tmp_path, dry_run=True)


def test_the_terminal_shows_the_gates_figures(report):
    """The table that `prune run` ends with, against the evidence files of the run."""
    from prune.cli.show import summary

    root, _ = report
    columns, rows = summary(ReportData.load(root / "report.json"))
    for row in rows:
        shown = dict(zip(columns, row, strict=True))
        if shown["stage"] == "original":
            continue
        evidence = json.loads((root / f"evidence/gate/{shown['stage']}-{shown['layers']}/evidence.json").read_text())
        for suite in evidence["suites"]:
            bits = suite["tasks"][0]["metric"] == "bits_per_byte"
            head = suite["name"] + (" (bits/byte)" if bits else "")
            assert shown[head] == f"{suite['candidate']:.3f} {suite['verdict']}"
    assert len(rows) == 1 + len(list((root / "evidence/gate").iterdir()))
