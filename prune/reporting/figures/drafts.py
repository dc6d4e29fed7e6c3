"""What a draft needs to pay: acceptance against cost, with a line for each speed-up and the drafts that were tried."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evals.speculation import needed_acceptance
from prune.reporting.data import ReportData
from prune.reporting.figures.style import SERIES, layout, literal, whiskers
from prune.wording.text import Text

if TYPE_CHECKING:
    import plotly.graph_objects as go

SPEEDUPS = (1.0, 1.3, 1.6, 2.0)
COSTS = [round(0.02 * i, 2) for i in range(1, 51)]
"""Of a draft's step, as a share of the original's."""


def acceptance_needed(data: ReportData, text: Text) -> go.Figure | None:
    """α against c at the best γ (Leviathan et al. 2023); None where no draft was tried.

    A line ends at its ceiling: beyond a cost of 1 / speed-up no acceptance is enough.
    """
    import plotly.graph_objects as go

    tried = [draft for draft in data.drafts if draft.result.acceptance_rate is not None]
    if not tried:
        return None
    figure = go.Figure()
    for index, speedup in enumerate(SPEEDUPS):
        points = [(cost, alpha) for cost in COSTS if (alpha := needed_acceptance(cost, speedup)) is not None]
        figure.add_scatter(
            x=[cost for cost, _ in points], y=[alpha for _, alpha in points], name=text.times(speedup), mode="lines",
            line={"color": SERIES[index], "width": 2}, hovertemplate="%{x:.0%}: %{y:.0%}<extra></extra>",
        )  # fmt: skip
    rates = [draft.result.acceptance_rate for draft in tried]
    bounds = [(d.result.acceptance_lo, d.result.acceptance_hi) for d in tried]
    figure.add_scatter(
        x=[draft.result.draft_cost for draft in tried], y=rates, mode="markers", name=text("draft_tried"),
        marker={"color": "var(--ink-2)", "size": 9, "symbol": "diamond"},
        customdata=[
            f"{literal(data.suite_title(d.suite, text))}, {text.times(d.result.speedup)}" for d in tried
        ],
        hovertemplate="%{customdata}<extra></extra>",
        error_y=whiskers(rates, [lo for lo, _ in bounds], [hi for _, hi in bounds], "var(--ink-2)"),
    )  # fmt: skip
    share = {"tickformat": ".0%"}
    x = {**share, "range": [0, max([1.0, *(d.result.draft_cost for d in tried)]) * 1.05]}
    return layout(figure, text("axis_draft_cost"), text("acceptance"), x=x, y={**share, "range": [0, 1.05]})
