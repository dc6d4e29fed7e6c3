"""What all figures share: colours as CSS variables, axes, intervals, and names shown literally.

The page resolves `var(--series-1)` and its like in the browser, so one figure serves light, dark and print.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from prune.layer_runs import runs
from prune.reporting.data import AnalysisView

if TYPE_CHECKING:
    import plotly.graph_objects as go

SERIES = tuple(f"var(--series-{index})" for index in range(1, 7))
BANDS = tuple(f"var(--band-{index})" for index in range(1, 7))
SCALE = [[index / 4, f"var(--scale-{index})"] for index in range(5)]


def literal(name: str) -> str:
    """A user's name as Plotly shows it literally: its labels understand a few HTML tags."""
    return name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def layout(figure: go.Figure, x_title: str, y_title: str, height: int = 360, **axes: Any) -> go.Figure:
    axis = {
        "gridcolor": "var(--grid)", "linecolor": "var(--axis)", "zerolinecolor": "var(--axis)", "ticks": "outside",
        "tickcolor": "var(--axis)", "ticklen": 4, "automargin": True, "title": {"standoff": 8, "font": {"size": 12}},
    }  # fmt: skip
    figure.update_layout(
        template="none", height=height, margin={"l": 12, "r": 12, "t": 12, "b": 12},
        paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "var(--sans)", "size": 13, "color": "var(--ink-2)"},
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "bgcolor": "rgba(0,0,0,0)"},
        hoverlabel={"font": {"family": "var(--sans)"}}, bargap=0.28, barcornerradius=2,
        xaxis={**axis, "showgrid": False, "zeroline": False}, yaxis=axis,
    )  # fmt: skip
    figure.update_xaxes(title_text=x_title, **axes.get("x", {}))
    figure.update_yaxes(title_text=y_title, **axes.get("y", {}))
    return figure


def whiskers(value: Sequence[Any], lo: Sequence[Any] | None, hi: Sequence[Any] | None, colour: str) -> dict[str, Any]:
    """Plotly's error-bar settings from absolute interval ends; invisible when there is no interval."""
    if lo is None or hi is None:
        return {"visible": False}
    pairs = list(zip(value, lo, hi, strict=True))
    above = [None if v is None or h is None else max(0.0, h - v) for v, _, h in pairs]
    below = [None if v is None or low is None else max(0.0, v - low) for v, low, _ in pairs]
    return {
        "type": "data", "symmetric": False, "array": above, "arrayminus": below,
        "color": colour, "thickness": 1.2, "width": 3,
    }  # fmt: skip


def mark_removed(figure: go.Figure, drop: Sequence[int]) -> None:
    for first, last in runs(drop):
        figure.add_vrect(x0=first - 0.5, x1=last + 0.5, fillcolor="var(--removed)", line_width=0, layer="below")


def with_band(figure: go.Figure, name: str, x: list[int], view: AnalysisView, key: str, colour: int) -> None:
    value, lo, hi = view.get(key), view.get(f"{key}.lo"), view.get(f"{key}.hi")
    if value is None:
        return
    if lo is not None and hi is not None:
        figure.add_scatter(
            x=x + x[::-1], y=hi + lo[::-1], fill="toself", fillcolor=BANDS[colour], line={"width": 0},
            mode="lines", hoverinfo="skip", showlegend=False,
        )  # fmt: skip
    figure.add_scatter(
        x=x, y=value, name=name, mode="lines+markers", line={"color": SERIES[colour], "width": 2}, marker={"size": 5}
    )


def places(first: int, last: int, *, reverse: bool = False) -> dict[str, Any]:
    """An axis of whole places: a tick for each, every `tick`-th and the last with its number; it ends at the last."""
    step = tick(last - first + 1)
    shown = list(range(first, last + 1, step))
    if last - shown[-1] <= step // 2 and len(shown) > 1:
        shown.pop()  # its number would touch the last one's
    shown = sorted({*shown, last})
    ends = [first - 0.5, last + 0.5]
    return {
        "tickvals": shown, "ticktext": [str(place) for place in shown], "range": ends[::-1] if reverse else ends,
        "minor": {"tick0": first, "dtick": 1, "ticks": "outside", "ticklen": 3, "tickcolor": "var(--axis)"},
    }  # fmt: skip


def tick(layers: int) -> int:
    return 1 if layers <= 20 else 2 if layers <= 40 else 5 if layers <= 100 else 10
