"""PNG figures hold what the Plotly figures hold."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import pytest
from matplotlib.figure import Figure as Canvas

from prune.reporting.data import AnalysisView
from prune.reporting.figures.layers import depth_by_difficulty
from prune.reporting.figures.style import literal
from prune.reporting.panels import analysis_panels
from prune.reporting.png import colour, draw, write_pngs
from prune.wording.text import Text

from .sample import sample_report


def axes_of(figure: go.Figure):
    axes = Canvas().add_subplot()
    draw(figure, axes)
    return axes


def test_every_panel_of_an_analysis_becomes_a_png(tmp_path):
    panels = analysis_panels(sample_report().analysis, Text(), drop=[9, 10])
    files = write_pngs(panels, tmp_path / "figures")
    assert [f.stem for f in files] == [panel.identifier for panel in panels]
    assert all(f.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and f.stat().st_size > 5000 for f in files)


def test_lines_bars_and_heat_maps_keep_their_numbers():
    line = go.Figure(go.Scatter(x=[0, 1, 2], y=[1.0, None, 3.0], mode="lines", line={"color": "var(--series-1)"}))
    drawn = axes_of(line).lines[0]
    np.testing.assert_array_equal(drawn.get_ydata(), [1.0, np.nan, 3.0])
    bars = axes_of(go.Figure([go.Bar(x=[0, 1], y=[2.0, 5.0]), go.Bar(x=[0, 1], y=[1.0, 4.0])])).patches
    assert [bar.get_height() for bar in bars] == [2.0, 5.0, 1.0, 4.0]
    assert bars[0].get_x() < bars[2].get_x()
    grid = [[0.0, 1.0], [None, 2.0]]
    mesh = axes_of(go.Figure(go.Heatmap(z=grid, colorscale=[[0, "#ffffff"], [1, "#000000"]]))).collections[0]
    assert mesh.get_array().compressed().tolist() == [0.0, 1.0, 2.0]


def test_axes_follow_the_figure():
    figure = go.Figure(go.Scatter(x=[1, 2], y=[1.0, 10.0]))
    figure.update_xaxes(title_text="layers", autorange="reversed")
    figure.update_yaxes(title_text="nats", type="log")
    axes = axes_of(figure)
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_yscale()) == ("layers", "nats", "log")
    assert axes.get_xlim()[0] > axes.get_xlim()[1]


def test_colours_are_those_of_the_page_and_unknown_traces_are_refused():
    assert colour("var(--series-1)") == "#0b67a3"
    assert colour("var(--band-2)") == pytest.approx((207 / 255, 106 / 255, 16 / 255, 0.16))
    with pytest.raises(ValueError, match="pie"):
        axes_of(go.Figure(go.Pie(values=[1])))


def test_difficulty_scatter_shows_documents_and_level_means():
    key = "output_effect/l2_mean"
    view = AnalysisView(
        num_layers=8, domains=["math"],
        arrays={"by_domain/math/difficulty": [1, 1, 2], f"by_domain/math/depth_score/{key}": [3.0, 4.0, 5.0]},
        difficulty={"math": {key: {"levels": {"1": 3.5, "2": 5.0}, "verdict": "cannot tell"}}},
    )  # fmt: skip
    documents, means = depth_by_difficulty(view, Text()).data
    assert list(documents.y) == [3.0, 4.0, 5.0]
    assert (list(means.x), list(means.y)) == ([1.0, 2.0], [3.5, 5.0])
    panel = next(p for p in analysis_panels(view, Text()) if p.identifier == "figure-difficulty")
    assert panel.caption == "math: cannot tell, too few documents or one level of difficulty."


@pytest.mark.parametrize("name", ["_wiki", "a <b>&$x$\\frac"])
def test_names_of_domains_stand_in_the_legend_as_they_are(name, tmp_path):
    figure = go.Figure(
        [go.Scatter(x=[0, 1], y=[1, 2], name=literal(name)), go.Scatter(x=[0, 1], y=[2, 2], name="math")]
    )
    axes = axes_of(figure)
    assert [text.get_text().strip("\u200a").replace(r"\$", "$") for text in axes.get_legend().get_texts()] == [
        name,
        "math",
    ]
    axes.figure.savefig(tmp_path / "figure.png")  # where TeX would be read
