"""The README's notebook lines, as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
import xarray as xr

import prune
from evals.evidence import Evidence
from prune.planning.plan import Plan

README = Path(__file__).resolve().parents[2] / "README.md"


def test_the_notebook_lines_of_the_readme_run_as_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    section = README.read_text(encoding="utf8").split("## In a notebook")[1]
    (block,) = re.findall(r"```python\n(.*?)```", section.split("\n## ")[0], flags=re.DOTALL)
    names: dict = {}
    shown = {}
    for statement in re.split(r"\n(?=[a-z])", block):  # as cells: the last value of each is looked at
        if re.match(r"(\w+) = |from |import ", statement):
            exec(statement, names)
        elif statement.strip():
            shown[statement.split("#")[0].strip()] = eval(statement.split("#")[0], names)
    analysis, plan = names["analysis"], names["plan"]
    assert isinstance(analysis, prune.Analysis)
    array = shown['analysis.array("output_effect/dnll", domain="math")']
    assert isinstance(array, xr.DataArray)
    assert array.dims == ("layer",)
    assert isinstance(shown["analysis.frame()"], pd.DataFrame)
    assert isinstance(shown['analysis.plot("relative_contribution")'], go.Figure)
    assert isinstance(plan, Plan)
    depths = [names[name].config.num_hidden_layers for name in ("model", "small", "healed")]
    assert depths == [16, 14, 14]
    assert isinstance(names["evidence"], Evidence)
    assert shown["evidence.verdict"] in {"PASS", "FAIL", "INCONCLUSIVE"}
    assert [suite.name for suite in names["evidence"].suites] == ["demo_math"]
    assert "analysis" in shown
    assert list(tmp_path.iterdir()) == []


def test_the_functions_are_listed():
    functions = {"analyze", "plan", "cut", "heal", "eval", "compare", "generate", "export", "run"}
    assert functions <= set(dir(prune))
    for name in functions:
        assert callable(getattr(prune, name))
    assert Path(prune.__file__).with_name("py.typed").exists()
