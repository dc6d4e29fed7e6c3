"""One figure of an analysis by name, as a Plotly object that stands by itself: in a notebook, in one's own page.

The report's figures name their colours by the page's CSS variables; here they become the light theme's own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from prune.analysis.axes import axes
from prune.errors import PruneError, UsageError, nearest
from prune.reporting import figures
from prune.reporting.data import AnalysisView
from prune.reporting.palette import palette
from prune.wording.text import Text

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from prune.analysis.result import Analysis

Draw = Callable[[AnalysisView, Text], "go.Figure | None"]
FIGURES: dict[str, Draw] = {
    "relative_contribution": figures.relative_contribution,
    "contribution_cosine": figures.contribution_cosine,
    "loss_without_layer": figures.loss_without_layer,
    "output_effect/dnll": figures.loss_without_layer,
    "domain_map": figures.domain_map,
    "angular_distance": figures.angular_triangle,
    "depth_by_difficulty": figures.depth_by_difficulty,
}
"""Figures that show several measurements at once; every other name is a key."""

FONTS = "system-ui, sans-serif"


def plot(analysis: Analysis, name: str, domain: str | None = None, lang: str = "en") -> go.Figure:
    """A figure of an analysis.

    Args:
        analysis: with the measurements.
        name: of `FIGURES`, or the key of a measurement that has one figure a layer, a depth or a pair of layers.
        domain: of that domain's documents only; of all if None.
        lang: of its words, `en` or `ja`.

    Raises:
        UsageError: no figure of that name; names those that this analysis has.
        PruneError: it was not measured.
    """
    text, view = Text(lang), _view(analysis, domain)
    if name in FIGURES:
        figure = FIGURES[name](view, text)
    elif name in view.arrays:
        figure = _of_key(analysis, view, name, text)
    else:
        known = [*FIGURES, *(key for key in view.arrays if _drawn(analysis, view, key))]
        raise UsageError(f"plot: unknown figure {nearest(name, known)}")
    if figure is None:
        raise PruneError(f"plot: {name} shows what was not measured, or not on these documents: analyze with it first")
    return standing_alone(figure)


def standing_alone(figure: go.Figure) -> go.Figure:
    """The same figure with colours and fonts of its own, on paper of its own: readable whatever page shows it."""
    import plotly.graph_objects as go

    colours = palette()
    text = re.sub(r"var\(--sans\)", FONTS, figure.to_json(engine="json"))
    text = re.sub(r"var\(--([\w-]+)\)", lambda match: colours[match[1]], text)
    made = go.Figure(json.loads(text))
    return made.update_layout(paper_bgcolor=colours["card"], plot_bgcolor=colours["card"])


def _view(analysis: Analysis, domain: str | None) -> AnalysisView:
    view = AnalysisView.from_analysis(analysis)
    if domain is None:
        return view
    if domain not in analysis.domains:
        raise UsageError(f"domain: unknown domain {nearest(domain, analysis.domains)}")
    prefix = f"by_domain/{domain}/"
    own: dict[str, Any] = {k.removeprefix(prefix): v for k, v in view.arrays.items() if k.startswith(prefix)}
    return view.model_copy(update={"arrays": {**own, **{prefix + k: v for k, v in own.items()}}, "domains": [domain]})


def _axes(analysis: Analysis, view: AnalysisView, key: str) -> list[str]:
    stored = analysis[key] if key in analysis else analysis.of_domain(key, view.domains[0])
    return list(axes(key, stored.shape, analysis.num_layers))


def _drawn(analysis: Analysis, view: AnalysisView, key: str) -> bool:
    """Whether a key has a figure of its own."""
    if key.startswith("by_domain/") or key.endswith((".lo", ".hi")):
        return False
    return _axes(analysis, view, key) in (["layer"], ["depth"], ["writer"], ["skipped", "affected"])


def _of_key(analysis: Analysis, view: AnalysisView, key: str, text: Text) -> go.Figure | None:
    if key.startswith("angular_distance/"):
        return figures.angular_triangle(view, text, key.rpartition("/")[2])
    if not _drawn(analysis, view, key):
        return None
    if _axes(analysis, view, key) == ["skipped", "affected"]:
        return figures.effect_map(view, key, text)
    return figures.curve(view, {key: ""}, key, text)
