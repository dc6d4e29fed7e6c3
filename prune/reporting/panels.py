"""Which figures a page shows, in which order, each with its title and its computed caption.

A panel exists only when its measurement does. Assumption: the identifier is unique on a page and safe as an HTML id.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prune.reporting import captions, figures, tables
from prune.reporting.data import AnalysisView, ReportData
from prune.wording.text import Text

if TYPE_CHECKING:
    import plotly.graph_objects as go


CURVES = {
    "influence": ("block_influence", "title_influence"),
    "width": ("width/participation_ratio", "axis_width"),
    "swap": ("swap_effect/dnll", "axis_dnll"),
}
"""Figure -> what it shows, and the name of its axis."""


@dataclass(frozen=True)
class Panel:
    """A figure with its words; `wide` panels take the whole row."""

    identifier: str
    title: str
    caption: str
    figure: go.Figure
    wide: bool = False


def evidence_panels(data: ReportData, text: Text) -> list[Panel]:
    """Score against depth for every suite, what is kept against cost, and the break-even plot."""
    found = []
    for index, suite in enumerate(s for s in data.suites if any(s in c.suites for c in data.candidates)):
        unit = next(tables.measure(c.suites[suite], text) for c in data.candidates if suite in c.suites)
        title = text("title_accuracy", suite=data.suite_title(suite, text), measure=unit)
        figure = figures.accuracy_by_depth(data, suite, text)
        found.append((f"accuracy-{index}", title, captions.accuracy(data, suite, text), figure, False))
    found.append(("cost", text("title_cost"), captions.cost(data, text), figures.kept_by_cost(data, text), False))
    figure = figures.break_even(data, text)
    found.append(("break-even", text("title_break_even"), captions.break_even(data, text), figure, False))
    figure = figures.sensitivity(data, text, captions.assumption)
    found.append(("sensitivity", text("title_sensitivity"), captions.sensitivity(data, text), figure, False))
    figure = figures.acceptance_needed(data, text)
    found.append(("drafts", text("title_drafts"), text("caption_drafts"), figure, False))
    return [Panel(*row[:3], row[3], row[4]) for row in found if row[3] is not None]


def analysis_panels(view: AnalysisView, text: Text, drop: Sequence[int] = ()) -> list[Panel]:
    """Every figure that the analysis has the arrays for; `drop` is shaded in figures whose axis is the layer."""
    size = len(drop) or max(1, view.num_layers // 4)
    kind = "last" if view.get("angular_distance/last") is not None else "all"
    found = [
        ("contribution", captions.contribution(view, text), figures.relative_contribution(view, text, drop), True),
        ("cosine", captions.cosine(view, text), figures.contribution_cosine(view, text, drop), False),
        ("dnll", captions.loss(view, text), figures.loss_without_layer(view, text, drop), False),
        ("needs", captions.domain_needs(view, text), figures.domain_map(view, text), True),
        ("triangle", captions.triangle(view, text, size, kind), figures.angular_triangle(view, text, kind), False),
    ]
    for identifier, (key, axis) in CURVES.items():
        caption = captions.extremes(view, key, f"caption_{identifier}", text)
        found.append((identifier, caption, figures.curve(view, {key: ""}, text(axis), text, drop), False))
    final = figures.curve(view, {"final_share": ""}, text("axis_share"), text)
    found.append(("final", captions.final(view, text), final, False))
    lens = figures.curve(view, {"lens/kl": ""}, text("axis_lens"), text)
    found.append(("lens", captions.lens(view, text), lens, False))
    use = captions.difficulty(view, text)
    found.append(("difficulty", use, figures.depth_by_difficulty(view, text), False))
    for identifier in ("skip", "future", "local"):
        keys = [f"{identifier}_effect/layer/{statistic}" for statistic in ("mean", "max")]
        key = next((key for key in keys if view.get(key) is not None), keys[0])
        caption = captions.effect(view, key, f"caption_{identifier}", text)
        found.append((identifier, caption, figures.effect_map(view, key, text), False))
    return [
        Panel(f"figure-{identifier}", text(f"title_{identifier}"), caption, figure, wide)
        for identifier, caption, figure, wide in found
        if figure is not None
    ]
