"""The figures, as Plotly objects whose colours are CSS variables.

The page resolves `var(--series-1)` and its like in the browser, so one figure serves light, dark and print.
Assumptions: arrays are nested lists with None where nothing was measured; an interval stands under the same key with
`.lo` and `.hi`; axes count layers from 0, as the checkpoint does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from prune.reporting.data import AnalysisView, ReportData, Sensitivity, Stage
from prune.reporting.text import Text, runs

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from prune.analysis.depth_map import DepthMap
    from prune.comparison import Comparison

SERIES = tuple(f"var(--series-{index})" for index in range(1, 7))
BANDS = tuple(f"var(--band-{index})" for index in range(1, 7))
SCALE = [[index / 4, f"var(--scale-{index})"] for index in range(5)]
PART_COLOURS = {"attn": 0, "mlp": 1, "layer": 2}
SYMBOLS = {"pruned": "circle-open", "healed": "circle"}
DEPTH_SCORE = "output_effect/l2_mean"  # the paper's weighting of layers
LOG_SPREAD = 10.0  # a linear axis hides all but the dearest layer beyond this ratio
LOG_FLOOR = 1e-3  # nats; smaller and negative losses are drawn here


def _plain(name: str) -> str:
    """A user's name as Plotly shows it literally: its labels understand a few HTML tags."""
    return name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _layout(figure: go.Figure, x_title: str, y_title: str, height: int = 360, **axes: Any) -> go.Figure:
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


def _whiskers(value: Sequence[Any], lo: Sequence[Any] | None, hi: Sequence[Any] | None, colour: str) -> dict[str, Any]:
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


def _mark_removed(figure: go.Figure, drop: Sequence[int]) -> None:
    for first, last in runs(drop):
        figure.add_vrect(x0=first - 0.5, x1=last + 0.5, fillcolor="var(--removed)", line_width=0, layer="below")


def _with_band(figure: go.Figure, name: str, x: list[int], view: AnalysisView, key: str, colour: int) -> None:
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


def relative_contribution(view: AnalysisView, text: Text, drop: Sequence[int] = ()) -> go.Figure | None:
    """Bars of attention and MLP by layer with intervals, the whole layer as a line. None when not measured."""
    import plotly.graph_objects as go

    figure, x = go.Figure(), list(range(view.num_layers))
    for part in ("attn", "mlp"):
        key, colour = f"relative_contribution/{part}", PART_COLOURS[part]
        if (value := view.get(key)) is not None:
            figure.add_bar(
                x=x, y=value, name=text(f"part_{part}"), marker={"color": SERIES[colour]},
                error_y=_whiskers(value, view.get(f"{key}.lo"), view.get(f"{key}.hi"), "var(--ink-2)"),
            )  # fmt: skip
    _with_band(figure, text("part_layer"), x, view, "relative_contribution/layer", PART_COLOURS["layer"])
    if not figure.data:
        return None
    _mark_removed(figure, drop)
    values = sorted(v for trace in figure.data if trace.name for v in trace.y if v)
    # The first layer often writes many times the stream it reads; the others must stay readable beside it.
    logarithmic = bool(values) and values[-1] > LOG_SPREAD * values[len(values) // 2]
    y: dict[str, Any] = {"type": "log", "dtick": 1} if logarithmic else {"rangemode": "tozero"}
    return _layout(figure, text("axis_layer"), text("axis_contribution"), y=y)


def contribution_cosine(view: AnalysisView, text: Text, drop: Sequence[int] = ()) -> go.Figure | None:
    """Cosine of what each part adds with the stream it adds to, as lines with bands."""
    import plotly.graph_objects as go

    figure, x = go.Figure(), list(range(view.num_layers))
    for part, colour in PART_COLOURS.items():
        _with_band(figure, text(f"part_{part}"), x, view, f"contribution_cosine/{part}", colour)
    if not figure.data:
        return None
    _mark_removed(figure, drop)
    return _layout(figure, text("axis_layer"), text("axis_cosine"))


def angular_triangle(view: AnalysisView, text: Text, kind: str = "last") -> go.Figure | None:
    """Angular distance of every block: x the first layer, y the number of layers; a dot marks each row's cheapest."""
    import plotly.graph_objects as go

    square = view.get(f"angular_distance/{kind}")
    if square is None:
        return None
    layers = view.num_layers
    z = [[square[i][i + n] if i + n <= layers else None for i in range(layers)] for n in range(1, layers + 1)]
    best = [min((v, i) for i, v in enumerate(row) if v is not None)[1] for row in z[:-1]]
    figure = go.Figure(
        go.Heatmap(
            z=z, x=list(range(layers)), y=list(range(1, layers + 1)), colorscale=SCALE, hoverongaps=False,
            xgap=1, ygap=1, colorbar={"thickness": 10, "outlinewidth": 0, "len": 0.85, "tickformat": ".2f"},
            hovertemplate=text("hover_triangle") + "<extra></extra>",
        )
    )  # fmt: skip
    figure.add_scatter(
        x=best, y=list(range(1, layers)), mode="markers", hoverinfo="skip", name=text("cheapest_block"),
        marker={"color": "var(--series-2)", "size": 7, "line": {"color": "var(--paper)", "width": 1}},
    )  # fmt: skip
    return _layout(figure, text("axis_first_layer"), text("axis_block_size"), height=430, x={"dtick": _tick(layers)})


def _tick(layers: int) -> int:
    return 1 if layers <= 20 else 2 if layers <= 40 else 5 if layers <= 100 else 10


def loss_without_layer(view: AnalysisView, text: Text, drop: Sequence[int] = ()) -> go.Figure | None:
    """ΔNLL of leaving each layer out, one series a domain; logarithmic when the dearest layer would hide the others."""
    import plotly.graph_objects as go

    key = "output_effect/dnll"
    domains: list[str | None] = [name for name in view.domains if view.get(key, name) is not None]
    series = [(domain or text("all_documents"), view.get(key, domain) or [], domain) for domain in domains or [None]]
    values = sorted(v for _, row, _ in series for v in row if v is not None)
    if not values:
        return None
    logarithmic = values[-1] > LOG_SPREAD * max(values[len(values) // 2], LOG_FLOOR)
    figure = go.Figure()
    for index, (name, row, domain) in enumerate(series):
        clipped = [None if v is None else max(v, LOG_FLOOR) if logarithmic else v for v in row]
        bounds = [view.get(f"{key}.{end}", domain) for end in ("lo", "hi")]
        if logarithmic:
            bounds = [b and [None if v is None else max(v, LOG_FLOOR) for v in b] for b in bounds]
        colour = SERIES[index % len(SERIES)]
        figure.add_scatter(
            x=list(range(view.num_layers)), y=clipped, name=_plain(name), mode="lines+markers",
            line={"color": colour, "width": 1.5},
            marker={"size": 7, "symbol": ("circle", "square", "diamond")[index % 3]},
            error_y=_whiskers(clipped, bounds[0], bounds[1], colour),
        )  # fmt: skip
    _mark_removed(figure, drop)
    y = {"type": "log", "dtick": 1} if logarithmic else {}
    return _layout(figure, text("axis_layer_left_out"), text("axis_dnll"), y=y)


def accuracy_by_depth(data: ReportData, suite: str, text: Text) -> go.Figure | None:
    """One suite's accuracy against depth, pruned and healed, with intervals and the gate's floor."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for stage, colour, dash in (("pruned", 1, "dot"), ("healed", 0, "solid")):
        line = [c for c in data.candidates if c.stage in (stage, "original") and suite in c.suites]
        if not any(c.stage == stage for c in line):
            continue
        scores = [c.suites[suite] for c in line]
        value = [s.accuracy for s in scores]
        figure.add_scatter(
            x=[c.num_layers for c in line], y=value, name=text(f"stage_{stage}"), mode="lines+markers",
            line={"color": SERIES[colour], "width": 2, "dash": dash}, marker={"size": 8, "symbol": SYMBOLS[stage]},
            error_y=_whiskers(value, [s.lo for s in scores], [s.hi for s in scores], SERIES[colour]),
        )  # fmt: skip
    if (level := data.floor_accuracy(suite)) is not None:
        figure.add_hline(
            y=level, line={"color": "var(--ink-2)", "width": 1, "dash": "dash"}, layer="below",
            annotation={"text": text("floor"), "font": {"size": 12}}, annotation_position="bottom left",
        )  # fmt: skip
    if not figure.data:
        return None
    x = {"autorange": "reversed", "tickvals": data.depths}
    return _layout(figure, text("axis_depth"), text("axis_accuracy"), height=320, x=x, y={"tickformat": ".0%"})


def accuracy_by_cost(data: ReportData, text: Text) -> go.Figure | None:
    """Accuracy of every candidate against its decode time per token, or its parameters where speed was not measured."""
    import plotly.graph_objects as go

    timed = all(c.decode_tokens_per_s for c in data.candidates)
    figure = go.Figure()
    for index, suite in enumerate(data.suites):
        for stage in ("pruned", "healed"):
            line = [c for c in data.candidates if c.stage in (stage, "original") and suite in c.suites]
            if not any(c.stage == stage for c in line):
                continue
            cost = [1000 / c.decode_tokens_per_s if timed and c.decode_tokens_per_s else c.parameters for c in line]
            figure.add_scatter(
                x=cost, y=[c.suites[suite].accuracy for c in line], mode="lines+markers",
                name=f"{_plain(data.suite_title(suite))}, {text(f'stage_{stage}')}",
                customdata=[c.num_layers for c in line],
                line={"color": SERIES[index % 6], "width": 2, "dash": "solid" if stage == "healed" else "dot"},
                marker={"size": 8, "symbol": SYMBOLS[stage]},
                hovertemplate=text("hover_cost") + "<extra></extra>",
            )  # fmt: skip
    if not figure.data:
        return None
    x_title = text("axis_decode_ms") if timed else text("axis_parameters")
    return _layout(figure, x_title, text("axis_accuracy"), y={"tickformat": ".0%"})


def break_even(data: ReportData, text: Text) -> go.Figure | None:
    """Money spent against tokens served, original and exported; the lines cross where healing has paid for itself."""
    import plotly.graph_objects as go

    shown, original, cost = data.shown, data.original, data.cost
    if shown is None or original is None or cost is None or not cost.break_even_tokens:
        return None
    if original.cost_per_million_tokens is None or shown.cost_per_million_tokens is None or cost.healing_cost is None:
        return None
    end = 2.5 * cost.break_even_tokens / 1e6
    figure = go.Figure()
    rows: tuple[tuple[str, float, float, int], ...] = (
        (text("stage_original"), 0.0, original.cost_per_million_tokens, 1),
        (_label(shown.num_layers, shown.stage, text), cost.healing_cost, shown.cost_per_million_tokens, 0),
    )
    for name, start, slope, colour in rows:
        figure.add_scatter(
            x=[0, end], y=[start, start + slope * end], mode="lines", name=name,
            line={"color": SERIES[colour], "width": 2},
        )  # fmt: skip
    figure.add_vline(x=cost.break_even_tokens / 1e6, line={"color": "var(--ink-2)", "width": 1, "dash": "dash"})
    y_title = text("axis_money", currency=_plain(cost.currency))
    return _layout(figure, text("axis_million_tokens"), y_title, height=320, y={"rangemode": "tozero"})


def sensitivity(data: ReportData, text: Text, name: Callable[[Sensitivity, Text], str]) -> go.Figure | None:
    """Break-even when one assumption moves: a bar from its value at the low to its value at the high end.

    Where healing never pays the bar runs to the right edge, a decade beyond every finite end.

    Args:
        name: the words for one row.
    """
    import plotly.graph_objects as go

    cost = data.cost
    if cost is None or not cost.sensitivity or not cost.break_even_tokens:
        return None
    ends = [end for row in cost.sensitivity for end in (row.at_low, row.at_high) if end]
    ends.append(cost.break_even_tokens)
    edge = 10 * max(ends)
    figure = go.Figure()
    for row in cost.sensitivity:
        low, high = sorted(edge if end is None else end for end in (row.at_low, row.at_high))
        figure.add_bar(
            y=[name(row, text)], x=[high - low], base=[low], orientation="h", showlegend=False,
            marker={"color": SERIES[0]}, hovertext=f"{low:,.0f} – {text('never') if high == edge else f'{high:,.0f}'}",
            hoverinfo="text",
        )  # fmt: skip
    figure.add_vline(x=cost.break_even_tokens, line={"color": "var(--ink-2)", "width": 1, "dash": "dash"})
    right = edge if len(ends) <= 2 * len(cost.sensitivity) else 2 * max(ends)
    x = {"type": "log", "range": [math.log10(min(ends) / 2), math.log10(right)], "dtick": 1}
    return _layout(figure, text("axis_break_even"), "", height=260, x=x)


def _label(num_layers: int, stage: Stage, text: Text) -> str:
    return text("layers_stage", layers=num_layers, stage=text(f"stage_{stage}"))


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
            _with_band(figure, name, list(range(len(value))), view, key, index % len(SERIES))
    if not figure.data:
        return None
    if longest <= view.num_layers:
        _mark_removed(figure, drop)
    x_title = text("axis_depth_of_stream") if longest > view.num_layers else text("axis_layer")
    figure.update_layout(showlegend=len(keys) > 1)
    return _layout(figure, x_title, y_title, height=320)


def depth_by_difficulty(view: AnalysisView, text: Text) -> go.Figure | None:
    """Depth score of every document against its difficulty, one series a domain; a line through the levels' means."""
    import plotly.graph_objects as go

    figure = go.Figure()
    levels_of = {name: rows.get(DEPTH_SCORE, {}).get("levels", {}) for name, rows in view.difficulty.items()}
    varied = {name: levels for name, levels in levels_of.items() if len(levels) > 1}
    for index, (name, levels) in enumerate(varied.items()):
        colour = index % len(SERIES)
        figure.add_scatter(
            x=view.get("difficulty", name), y=view.get(f"depth_score/{DEPTH_SCORE}", name), mode="markers",
            showlegend=False, marker={"color": BANDS[colour], "size": 6}, hoverinfo="y",
        )  # fmt: skip
        figure.add_scatter(
            x=[float(level) for level in levels], y=list(levels.values()), mode="lines+markers", name=_plain(name),
            line={"color": SERIES[colour], "width": 2}, marker={"size": 7},
        )  # fmt: skip
    if not figure.data:
        return None
    return _layout(figure, text("axis_difficulty"), text("axis_depth_score"), height=320)


def depth_map(found: DepthMap, names: tuple[str, str], text: Text) -> go.Figure:
    """Held-out error of the best linear map: x the depth of the second model, y of the first; dots mark the best."""
    import plotly.graph_objects as go

    depths_a, depths_b = found.error.shape
    figure = go.Figure(
        go.Heatmap(
            z=found.error.tolist(), colorscale=SCALE[::-1], hoverongaps=False, xgap=1, ygap=1,
            colorbar={"thickness": 10, "outlinewidth": 0, "len": 0.85, "tickformat": ".2f"},
            hovertemplate=text("hover_depth_map") + "<extra></extra>",
        )
    )  # fmt: skip
    figure.add_scatter(
        x=list(range(depths_b)), y=found.best.tolist(), mode="markers", hoverinfo="skip", name=text("best_depth"),
        marker={"color": "var(--series-2)", "size": 7, "line": {"color": "var(--paper)", "width": 1}},
    )  # fmt: skip
    figure.add_scatter(
        x=[0, depths_b - 1], y=[0, depths_a - 1], mode="lines", hoverinfo="skip", name=text("diagonal"),
        line={"color": "var(--ink-2)", "width": 1, "dash": "dash"},
    )  # fmt: skip
    axes = [text("axis_depth_in", name=_plain(name)) for name in names]
    return _layout(figure, axes[1], axes[0], height=430, x={"dtick": _tick(depths_b)}, y={"dtick": _tick(depths_a)})


def quality_by_cost(found: Comparison, text: Text) -> go.Figure | None:
    """Mean retention against decode milliseconds per token; the Pareto front filled and joined."""
    import plotly.graph_objects as go

    known = [m for m in found.models if m.quality is not None and m.decode_tokens_per_s]
    if len(known) < 2:
        return None
    points = sorted((1000 / (m.decode_tokens_per_s or 1), m.quality, m) for m in known)
    figure = go.Figure()
    front = [(x, y) for x, y, m in points if m.pareto]
    figure.add_scatter(
        x=[x for x, _ in front], y=[y for _, y in front], mode="lines", hoverinfo="skip", showlegend=False,
        line={"color": "var(--axis)", "width": 1, "dash": "dash"},
    )  # fmt: skip
    for index, (x, y, m) in enumerate(points):
        figure.add_scatter(
            x=[x], y=[y], mode="markers", name=_plain(m.name), text=[_plain(m.name)],
            marker={"color": SERIES[index % 6], "size": 11, "symbol": "circle" if m.pareto else "circle-open"},
            hovertemplate=text("hover_compare") + "<extra></extra>",
        )  # fmt: skip
    return _layout(figure, text("axis_decode_ms"), text("axis_retention"), y={"tickformat": ".0%"})


def contribution_by_relative_depth(found: Comparison, text: Text) -> go.Figure | None:
    """Relative contribution of every layer of every model, over l / (L - 1)."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for index, m in enumerate(m for m in found.models if m.relative_contribution):
        row = m.relative_contribution or []
        figure.add_scatter(
            x=[layer / max(1, len(row) - 1) for layer in range(len(row))], y=row, mode="lines+markers",
            name=_plain(m.name), line={"color": SERIES[index % len(SERIES)], "width": 2}, marker={"size": 5},
        )  # fmt: skip
    if not figure.data:
        return None
    return _layout(figure, text("axis_relative_depth"), text("axis_contribution"), y={"type": "log", "dtick": 1})


def effect_map(view: AnalysisView, key: str, text: Text) -> go.Figure | None:
    """A [L, L] effect: row the skipped layer, column the layer it is felt in; blank on and below the diagonal."""
    import plotly.graph_objects as go

    square = view.get(key)
    if square is None:
        return None
    z = [[value if column > row else None for column, value in enumerate(line)] for row, line in enumerate(square)]
    figure = go.Figure(
        go.Heatmap(
            z=z, colorscale=SCALE, hoverongaps=False, xgap=1, ygap=1,
            colorbar={"thickness": 10, "outlinewidth": 0, "len": 0.85},
            hovertemplate=text("hover_effect") + "<extra></extra>",
        )
    )  # fmt: skip
    tick = {"dtick": _tick(view.num_layers)}
    return _layout(
        figure, text("axis_affected"), text("axis_skipped"), height=430, x=tick, y={**tick, "autorange": "reversed"}
    )
