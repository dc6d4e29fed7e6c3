"""Figures that a decision rests on: score against depth, what is kept against cost, when healing has paid off."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from evals.cost import Sensitivity
from prune.reporting.data import Candidate, ReportData, Stage
from prune.reporting.figures.style import SERIES, layout, literal, whiskers
from prune.reporting.tables import measure
from prune.wording.text import Text

if TYPE_CHECKING:
    import plotly.graph_objects as go

MARKERS = {"pruned": {"symbol": "circle-open", "size": 11}, "healed": {"symbol": "circle", "size": 6}}
"""Where the two stages score the same, the healed dot lies inside the pruned ring."""
_STEPS = (1, 2, 5)  # ticks of a decade
DODGE = 0.012
"""Share of the depth axis by which the two stages are set apart, so that neither hides the other's interval."""


def accuracy_by_depth(data: ReportData, suite: str, text: Text) -> go.Figure | None:
    """One suite's score against depth, pruned and healed, with intervals and the gate's floor; losses point down."""
    import plotly.graph_objects as go

    figure = go.Figure()
    measured = [c.suites[suite] for c in data.candidates if suite in c.suites]
    share = all(score.is_share for score in measured)
    apart = DODGE * (max(data.depths, default=0) - min(data.depths, default=0))
    for stage, colour, dash, side in (("pruned", 1, "dot", 1), ("healed", 0, "solid", -1)):
        line = [c for c in data.candidates if c.stage in (stage, "original") and suite in c.suites]
        if not any(c.stage == stage for c in line):
            continue
        scores = [c.suites[suite] for c in line]
        value = [s.value for s in scores]
        figure.add_scatter(
            x=[c.num_layers + (side * apart if c.stage == stage else 0) for c in line], y=value,
            name=text(f"stage_{stage}"), mode="lines+markers", marker=MARKERS[stage],
            customdata=[_label(c.num_layers, c.stage, text) for c in line],
            hovertemplate=f"%{{customdata}}: %{{y:{'.1%' if share else '.3f'}}}<extra></extra>",
            line={"color": SERIES[colour], "width": 2, "dash": dash},
            error_y=whiskers(value, [s.lo for s in scores], [s.hi for s in scores], SERIES[colour]),
        )  # fmt: skip
    if (level := data.floor_score(suite)) is not None:
        figure.add_hline(
            y=level, line={"color": "var(--ink-2)", "width": 1, "dash": "dash"}, layer="below",
            annotation={"text": text("floor"), "font": {"size": 12}}, annotation_position="bottom left",
        )  # fmt: skip
    if not figure.data:
        return None
    x = {"autorange": "reversed", "tickvals": data.depths}
    y = {"tickformat": ".0%"} if share else {"autorange": "reversed"}
    return layout(figure, text("axis_depth"), measure(measured[0], text), height=320, x=x, y=y)


def kept_by_cost(data: ReportData, text: Text) -> go.Figure | None:
    """What every candidate keeps against its decode time per token, or its parameters where speed was not measured.

    Retention, so that suites with metrics of their own stand on one axis.
    """
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
                x=cost, y=[_kept(c, suite) for c in line], mode="lines+markers",
                name=text.listed([literal(data.suite_title(suite, text)), text(f"stage_{stage}")]),
                customdata=[c.num_layers for c in line],
                line={"color": SERIES[index % 6], "width": 2, "dash": "solid" if stage == "healed" else "dot"},
                marker=MARKERS[stage],
                hovertemplate=text("hover_cost") + "<extra></extra>",
            )  # fmt: skip
    if not figure.data:
        return None
    x_title = text("axis_decode_ms") if timed else text("axis_parameters")
    return layout(figure, x_title, text("axis_kept"), y={"tickformat": ".0%"})


def _kept(candidate: Candidate, suite: str) -> float | None:
    """Retention; the original keeps everything."""
    return 1.0 if candidate.stage == "original" else candidate.suites[suite].retained[0]


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
    y_title = text("axis_money", currency=literal(cost.currency))
    return layout(figure, text("axis_million_tokens"), y_title, height=320, y={"rangemode": "tozero"})


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
            y=[_two_lines(name(row, text), text.times(row.low))], x=[high - low], base=[low], orientation="h",
            showlegend=False, marker={"color": SERIES[0]},
            hovertext=f"{low:,.0f} – {text('never') if high == edge else f'{high:,.0f}'}",
            hoverinfo="text",
        )  # fmt: skip
    figure.add_vline(x=cost.break_even_tokens, line={"color": "var(--ink-2)", "width": 1, "dash": "dash"})
    right = edge if len(ends) <= 2 * len(cost.sensitivity) else 2 * max(ends)
    first = min(ends) / 2
    decades = range(int(math.log10(right)) + 1)
    ticks = [step * 10**power for power in decades for step in _STEPS if first <= step * 10**power <= right]
    ticks = ticks[:: -(-len(ticks) // 3)]  # no more than a phone has room for
    x = {
        "type": "log", "range": [math.log10(first), math.log10(right)], "tickvals": ticks,
        "ticktext": [text.count(value) for value in ticks],
    }  # fmt: skip
    return layout(figure, text("axis_break_even"), "", height=260, x=x)


def _two_lines(words: str, at: str) -> str:
    """Words broken before one of them, so that on a phone they leave room for the bars."""
    return literal(words).replace(f" {at}", f"<br>{at}", 1)


def _label(num_layers: int, stage: Stage, text: Text) -> str:
    return text("layers_stage", layers=num_layers, stage=text(f"stage_{stage}"))
