"""Figures of `prune compare`: several checkpoints in one plot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prune.reporting.figures.style import SERIES, layout, literal
from prune.wording.text import Text

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from prune.comparison import Comparison


def quality_by_cost(found: Comparison, text: Text) -> go.Figure | None:
    """Mean retention against decode milliseconds per token; the Pareto front filled and joined."""
    import plotly.graph_objects as go

    known = [(1000 / m.throughput.decode_tokens_per_s, m.quality, index, m) for index, m in enumerate(found.models)]
    points = sorted(row for row in known if row[1] is not None)
    if len(points) < 2:
        return None
    figure = go.Figure()
    front = [(x, y) for x, y, _, m in points if m.pareto]
    figure.add_scatter(
        x=[x for x, _ in front], y=[y for _, y in front], mode="lines", hoverinfo="skip", showlegend=False,
        line={"color": "var(--axis)", "width": 1, "dash": "dash"},
    )  # fmt: skip
    for x, y, index, m in points:
        figure.add_scatter(
            x=[x], y=[y], mode="markers", name=literal(m.name), text=[literal(m.name)],
            marker={"color": SERIES[index % 6], "size": 11, "symbol": "circle" if m.pareto else "circle-open"},
            hovertemplate=text("hover_compare") + "<extra></extra>",
        )  # fmt: skip
    return layout(figure, text("axis_decode_ms"), text("axis_retention"), y={"tickformat": ".0%"})


def contribution_by_relative_depth(found: Comparison, text: Text) -> go.Figure | None:
    """Relative contribution of every layer of every model, over l / (L - 1)."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for index, m in enumerate(found.models):
        if not (row := m.relative_contribution):
            continue
        figure.add_scatter(
            x=[layer / max(1, len(row) - 1) for layer in range(len(row))], y=row, mode="lines+markers",
            name=literal(m.name), line={"color": SERIES[index % len(SERIES)], "width": 2}, marker={"size": 5},
        )  # fmt: skip
    if not figure.data:
        return None
    return layout(figure, text("axis_relative_depth"), text("axis_contribution"), y={"type": "log", "dtick": 1})
