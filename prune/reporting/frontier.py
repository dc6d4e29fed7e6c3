"""The frontier of `prune plan --sweep` on disk: JSON, one plan a depth, and a self-contained plot.

Assumption: plotly.js is inlined, so that the page needs no network.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.secrets import redacted
from prune.files import staged_directory, write_exact, write_json

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from prune.planning.frontier import Frontier

COLOURS = ("#222222", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # safe for colour-blind eyes
WEIGHTED = "weighted mean of the domains"


def save_frontier(frontier: Frontier, directory: Path) -> None:
    """Write `frontier.json`, `frontier.html` and `plans/N.json`; the directory appears only when complete.

    Raises:
        UsageError: the directory is not empty.
    """
    found = frontier.describe()
    with staged_directory(directory) as staging:
        write_json(staging / "frontier.json", found)
        write_exact(staging / "frontier.html", frontier_figure(redacted(found)).to_html(include_plotlyjs=True))
        for plan in frontier.plans:
            if plan.drop:
                plan.save(staging / "plans" / f"{len(plan.keep)}.json")


def frontier_figure(found: dict[str, Any]) -> go.Figure:
    """Score against layers removed, one line a domain and one for the weighted mean, with intervals.

    Args:
        found: what `Frontier.describe` gives.
    """
    import plotly.graph_objects as go

    points = found["points"]
    names = list(points[-1]["by_domain"])
    figure = go.Figure()
    lines = [(WEIGHTED, [point["score"] for point in points])]
    lines += [(name, [point["by_domain"].get(name) for point in points]) for name in names]
    for number, (name, scores) in enumerate(lines):
        values = [None if score is None else score["value"] for score in scores]
        bounded = all(score is not None and score["lo"] is not None for score in scores)
        figure.add_scatter(
            x=[point["removed"] for point in points],
            y=values,
            name=_literal(name),
            mode="lines+markers",
            line={"color": COLOURS[number % len(COLOURS)], "width": 3 if number == 0 else 1.5},
            error_y={
                "type": "data",
                "symmetric": False,
                "visible": bounded,
                "array": [score["hi"] - score["value"] for score in scores] if bounded else [],
                "arrayminus": [score["value"] - score["lo"] for score in scores] if bounded else [],
            },
            text=[f"drop {', '.join(map(str, point['drop'])) or 'nothing'}" for point in points],
        )
    figure.update_layout(
        template="plotly_white",
        title={"text": _literal(f"{found['source']}: {found['criterion']}, {found['strategy']}")},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},
    )
    figure.update_xaxes(title_text=f"layers removed, of {found['num_layers']}", dtick=1)
    figure.update_yaxes(title_text=_literal(found["score"]))
    return figure


def _literal(name: str) -> str:
    """A user's name as Plotly shows it literally: its labels understand a few HTML tags."""
    return name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
