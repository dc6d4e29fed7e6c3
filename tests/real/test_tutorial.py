"""The tutorial runs as it stands, and its decision follows from the figures that it prints."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.real
SCRIPT = Path(__file__).parents[2] / "scripts/tutorial.py"


def test_the_tutorial_comes_to_a_decision_with_figures(smollm2, tmp_path):
    sizes = ["--documents", "3", "--tests", "6", "--steps", "3"]
    command = [sys.executable, str(SCRIPT), "-o", str(tmp_path / "out"), "--model", str(smollm2), *sizes]
    done = subprocess.run(command, capture_output=True, text=True, cwd=SCRIPT.parents[1])
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out/decision.json").read_text(encoding="utf8"))
    losses = [
        float(x) for x in re.search(r"cut ([\d.]+), healed ([\d.]+), the original ([\d.]+)", done.stdout).groups()
    ]
    assert losses[2] < losses[1] <= losses[0]  # healing goes from the cut towards the original
    assert found["healed"]["retention"] > found["cut"]["retention"]
    assert found["healed"]["n"] == 6
    passed = [name for name in ("cut", "healed") if found[name]["verdict"] == "PASS"]
    assert found["decision"].startswith(f"use the {passed[0]}" if passed else "keep the original")
    assert f"decision: {found['decision']}" in done.stdout
    for name in ("report.html", "analysis/analysis.html", "analysis/figures/figure-dnll.png"):
        assert (tmp_path / "out" / name).stat().st_size > 10_000
    report = json.loads((tmp_path / "out/report.json").read_text(encoding="utf8"))
    assert [c["num_layers"] for c in report["candidates"]] == [30, 27, 27]
