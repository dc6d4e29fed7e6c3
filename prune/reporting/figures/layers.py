"""Figures with one value a layer, or a depth of the stream: what layers add, and what leaving one out costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from prune.reporting.data import AnalysisView
from prune.reporting.figures.style import BANDS, SERIES, layout, literal, mark_removed, places, whiskers, with_band
from prune.wording.text import Text

if TYPE_CHECKING:
    import plotly.graph_objects as go

PART_COLOURS = {"attn": 0, "mlp": 1, "layer": 2}
DEPTH_SCORE = "output_effect/l2_mean"  # the paper's weighting of layers
LEVELS = 10  # so many levels of difficulty have a tick each
LOG_SPREAD = 10.0  # a linear axis hides all but the dearest layer beyond this ratio
LOG_FLOOR = 1e-3  # nats; smaller and negative losses are drawn here


def relative_contribution(view: AnalysisView, text: Text, drop: Sequence[int] = ()) -> go.Figure | None:
    """Bars of attention and MLP by layer with intervals, the whole layer as a line. None when not measured."""
    import plotly.graph_objects as go

    figure, x = go.Figure(), list(range(view.num_layers))
    for part in ("attn", "mlp"):
        key, colour = f"relative_contribution/{part}", PART_COLOURS[part]
        if (value := view.get(key)) is not None:
            figure.add_bar(
                x=x, y=value, name=text(f"part_{part}"), marker={"color": SERIES[colour]},
                error_y=whiskers(value, view.get(f"{key}.lo"), view.get(f"{key}.hi"), "var(--ink-2)"),
            )  # fmt: skip
    with_band(figure, text("part_layer"), x, view, "relative_contribution/layer", PART_COLOURS["layer"])
    if not figure.data:
        return None
    mark_removed(figure, drop)
    values = sorted(v for trace in figure.data if trace.name for v in trace.y if v)
    # The first layer often writes many times the stream it reads; the others must stay readable beside it.
    logarithmic = bool(values) and values[-1] > LOG_SPREAD * values[len(values) // 2]
    y: dict[str, Any] = {"type": "log", "dtick": 1} if logarithmic else {"rangemode": "tozero"}
    return layout(figure, text("axis_layer"), text("axis_contribution"), x=places(0, view.num_layers - 1), y=y)


def contribution_cosine(view: AnalysisView, text: Text, drop: Sequence[int] = ()) -> go.Figure | None:
    """Cosine of what each part adds with the stream it adds to, as lines with bands."""
    import plotly.graph_objects as go

    figure, x = go.Figure(), list(range(view.num_layers))
    for part, colour in PART_COLOURS.items():
        with_band(figure, text(f"part_{part}"), x, view, f"contribution_cosine/{part}", colour)
    if not figure.data:
        return None
    mark_removed(figure, drop)
    return layout(figure, text("axis_layer"), text("axis_cosine"), x=places(0, view.num_layers - 1))


def loss_without_layer(view: AnalysisView, text: Text, drop: Sequence[int] = ()) -> go.Figure | None:
    """ΔNLL of leaving each layer out, one series a domain; logarithmic when the dearest layer would hide the others."""
    import plotly.graph_objects as go

    key = "output_effect/dnll"
    domains: list[str | None] = [name for name in view.domains if view.get(key, name) is not None]
    series = [(domain or text("all_documents"), view.get(key, domain) or [], domain) for domain in domains or [None]]
    values = [v for _, row, _ in series for v in row if v is not None]
    if not values:
        return None
    logarithmic = is_logarithmic(values)
    figure = go.Figure()
    for index, (name, row, domain) in enumerate(series):
        clipped = [None if v is None else max(v, LOG_FLOOR) if logarithmic else v for v in row]
        bounds = [view.get(f"{key}.{end}", domain) for end in ("lo", "hi")]
        if logarithmic:
            bounds = [b and [None if v is None else max(v, LOG_FLOOR) for v in b] for b in bounds]
        colour = SERIES[index % len(SERIES)]
        figure.add_scatter(
            x=list(range(view.num_layers)), y=clipped, name=literal(text.name(name)), mode="lines+markers",
            line={"color": colour, "width": 1.5},
            marker={"size": 7, "symbol": ("circle", "square", "diamond")[index % 3]},
            error_y=whiskers(clipped, bounds[0], bounds[1], colour),
        )  # fmt: skip
    mark_removed(figure, drop)
    y = {"type": "log", "dtick": 1} if logarithmic else {}
    return layout(figure, text("axis_layer_left_out"), text("axis_dnll"), x=places(0, view.num_layers - 1), y=y)


def is_logarithmic(losses: Sequence[float]) -> bool:
    """Whether losses need a logarithmic axis; not where gains are so large that they must be seen."""
    ordered = sorted(losses)
    dearest = ordered[-1]
    return dearest > LOG_SPREAD * max(ordered[len(ordered) // 2], LOG_FLOOR, -ordered[0])


def curve(
    view: AnalysisView, keys: dict[str, str], y_title: str, text: Text, drop: Sequence[int] = ()
) -> go.Figure | None:
    """Lines with bands for measurements of shape [L], [L-1] or [L+1]; `keys` maps a key to its name in the legend."""
    import plotly.graph_objects as go

    figure, longest = go.Figure(), 0
    for index, (key, name) in enumerate(keys.items()):
        value = view.get(key)
        if value is not None:
            longest = max(longest, len(value))
            with_band(figure, name, list(range(len(value))), view, key, index % len(SERIES))
    if not figure.data:
        return None
    if longest <= view.num_layers:
        mark_removed(figure, drop)
    x_title = text("axis_depth_of_stream") if longest > view.num_layers else text("axis_layer")
    figure.update_layout(showlegend=len(keys) > 1)
    return layout(figure, x_title, y_title, height=320, x=places(0, longest - 1))


def shown_score(rows: Mapping[str, Any]) -> str | None:
    """Which of a domain's depth scores is shown: the paper's, else the first that was measured."""
    return next((key for key in (DEPTH_SCORE, *rows) if isinstance(rows.get(key), dict)), None)


def depth_by_difficulty(view: AnalysisView, text: Text) -> go.Figure | None:
    """Depth score of every document against its difficulty, one series a domain; a line through the levels' means."""
    import plotly.graph_objects as go

    figure = go.Figure()
    scores = {name: key for name, rows in view.difficulty.items() if (key := shown_score(rows))}
    levels_of = {name: view.difficulty[name][key]["levels"] for name, key in scores.items()}
    varied = {name: levels for name, levels in levels_of.items() if len(levels) > 1}
    for index, (name, levels) in enumerate(varied.items()):
        colour = index % len(SERIES)
        figure.add_scatter(
            x=view.get("difficulty", name), y=view.get(f"depth_score/{scores[name]}", name), mode="markers",
            showlegend=False, marker={"color": BANDS[colour], "size": 6}, hoverinfo="y",
        )  # fmt: skip
        figure.add_scatter(
            x=[float(level) for level in levels], y=list(levels.values()), mode="lines+markers",
            name=literal(text.name(name)), line={"color": SERIES[colour], "width": 2}, marker={"size": 7},
        )  # fmt: skip
    if not figure.data:
        return None
    found = sorted({float(level) for levels in varied.values() for level in levels})
    x = {"tickvals": found} if len(found) <= LEVELS else {}
    return layout(figure, text("axis_difficulty"), text("axis_depth_score"), height=320, x=x)
