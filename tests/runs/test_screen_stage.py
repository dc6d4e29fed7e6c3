"""Which depths a screen lets through, and what the report says of the others; once through the whole path."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import prune
from prune.runs.outputs import SCREEN, screened_out
from prune.runs.stages.screen import _confirmed
from prune.wording.text import english
from tests.runs.small import small_recipe


def looks(overall: str, items: int = 50, retention: float | None = 0.4) -> list[dict[str, Any]]:
    row = {"title": "Stories", "retention": retention, "retention_lo": 0.3, "retention_hi": 0.5, "verdict": overall}
    return [{"items_per_task": items, "overall": overall, "suites": {"s": row}}]


def test_the_shallowest_that_pass_go_on_before_the_undecided() -> None:
    rows = {8: looks("FAIL"), 10: looks("INCONCLUSIVE"), 12: looks("PASS"), 14: looks("PASS")}
    assert _confirmed(rows, 1) == [12]
    assert _confirmed(rows, 2) == [14, 12]
    assert _confirmed(rows, 9) == [14, 12, 10]


def test_where_all_are_screened_out_the_deepest_still_goes_on() -> None:
    assert _confirmed({8: looks("FAIL"), 12: looks("FAIL")}, 2) == [12]


def test_the_report_says_what_was_screened_out_and_by_which_figures(tmp_path: Path) -> None:
    assert screened_out(tmp_path) == []
    (tmp_path / "evidence").mkdir()
    rows = {"8": looks("FAIL"), "10": looks("PASS"), "14": looks("PASS", retention=None)}
    found = {"confirmed": [10], "floor": 0.7, "depths": rows}
    (tmp_path / SCREEN).write_text(json.dumps(found), encoding="utf8")
    lines = [english(line) for line in screened_out(tmp_path)]
    assert len(lines) == 2
    assert "8 layers" in lines[0]
    assert "screened out after 50 items" in lines[0]
    assert "keeps 40.0\u00a0% (30.0–50.0\u00a0%)" in lines[0]
    assert "not needed" in lines[1]
    assert "what is kept is not defined" in lines[1]


@pytest.mark.slow
def test_a_staged_run_heals_and_judges_only_what_the_screen_let_through(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path)
    values = yaml.safe_load(recipe.read_text(encoding="utf8"))
    values["plan"] |= {"depths": [15, 13, 3], "criterion": "block_influence", "strategy": "one_shot"}
    values["heal"]["enabled"] = False
    for suite in values["eval"]["suites"]:
        suite["floor"] = 0.01
    values["screen"] = {"suites": [values["eval"]["suites"][2]], "looks": [20, 40], "floor": 0.5, "confirm": 1}
    values["draft"] = {"enabled": False}
    recipe.write_text(yaml.safe_dump(values), encoding="utf8")
    prune.run(recipe, tmp_path / "run")
    screen = json.loads((tmp_path / "run" / SCREEN).read_text())
    assert screen["depths"]["3"][-1]["overall"] == "FAIL"
    assert len(screen["depths"]["3"]) == 1
    judged = [path.name for path in (tmp_path / "run/evidence/gate").iterdir()]
    assert judged == [f"pruned-{depth}" for depth in screen["confirmed"]]
    assert "3 layers" in (tmp_path / "run/report.md").read_text(encoding="utf8")
    again = prune.run(recipe, tmp_path / "run", resume=True)
    assert not {"screen", "gate", "cut-3"} & set(again.redone)
