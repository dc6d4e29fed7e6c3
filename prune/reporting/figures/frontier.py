"""The figure of a sweep: what leaving out so many layers costs, for every domain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prune.reporting.figures.style import SERIES, layout, literal, places, whiskers
from prune.wording.text import Text

if TYPE_CHECKING:
    import plotly.graph_objects as go


def cost_by_removed(points: list[dict[str, Any]], total: int, y_title: str, text: Text) -> go.Figure:
    """The score of every depth with its interval, one line a domain and a thick one for their weighted mean.

    Args:
        points: as `Frontier.points` gives them, the whole model first.
        total: layers of the whole model.
    """
    import plotly.graph_objects as go

    names = list(points[-1]["by_domain"])
    mean = text("frontier_mean") if len(names) > 1 else text.name(names[0]) if names else text("frontier_all")
    lines = [(mean, [point["score"] for point in points])]
    if len(names) > 1:
        lines += [(text.name(name), [point["by_domain"].get(name) for point in points]) for name in names]
    gone = [text.ranges(point["drop"]) or text("nothing_removed") for point in points]
    figure = go.Figure()
    for number, (name, scores) in enumerate(lines):
        value, lo, hi = ([score[end] if score else None for score in scores] for end in ("value", "lo", "hi"))
        colour = SERIES[number % len(SERIES)]
        figure.add_scatter(
            x=[point["removed"] for point in points], y=value, name=literal(name), mode="lines+markers",
            line={"color": colour, "width": 3 if number == 0 else 1.5}, marker={"size": 6},
            error_y=whiskers(value, lo, hi, colour), customdata=gone,
            hovertemplate=text("hover_frontier") + "<extra></extra>",
        )  # fmt: skip
    last = points[-1]["removed"]
    return layout(figure, text("axis_removed", total=total), literal(y_title), height=440, x=places(0, last))
