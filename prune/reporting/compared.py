"""The page of `prune compare`: quality against cost, how depth is used, and every figure in a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from prune.files import write_text
from prune.reporting import figures, tables
from prune.reporting.page import fill_page
from prune.reporting.panels import Panel
from prune.wording.numbers import UNKNOWN, quantity, size
from prune.wording.text import Text

if TYPE_CHECKING:
    from prune.comparison import Compared, Comparison


def render_comparison_html(found: Comparison, path: Path, lang: str = "en") -> None:
    """Write one self-contained page.

    Raises:
        UsageError: `lang` is neither `en` nor `ja`.
    """
    text = Text(lang)
    pareto = text("sentences", parts=[text("caption_pareto"), text("measured_at", setting=found.setting)])
    drawn = [
        ("quality-cost", figures.quality_by_cost(found, text), pareto),
        ("depth-use", figures.contribution_by_relative_depth(found, text), text("caption_depth_use")),
    ]
    panels = [
        Panel(f"figure-{name}", text(f"title_{name.replace('-', '_')}"), caption, figure, wide=True)
        for name, figure, caption in drawn
        if figure is not None
    ]
    front = [m.name for m in found.models if m.pareto]
    headline = text("headline_front", models=front) if front else text("title_compare")
    names = " · ".join(m.name for m in found.models)
    context = {
        "text": text, "title": names, "page_title": f"{text('title_compare')}: {names}", "headline": headline,
        "analysis": panels, "phases": [], "stability": [], "warnings": [],
        "layer_table": comparison_table(found, text), "provenance": [], "panels_shown": panels,
    }  # fmt: skip
    write_text(path, fill_page("analysis.html.jinja", context))


def comparison_table(found: Comparison, text: Text) -> tables.Table:
    """One row a checkpoint; those on the Pareto front are stressed."""
    suites = list(found.models[0].suites)
    heads = ["model", "layers", "parameters", "bytes", "kv", "decode", "depth_score", "width_used"]
    table = tables.Table([*(text(f"compare_{head}") for head in heads), *suites])
    for index, model in enumerate(found.models):
        speed = model.decode_tokens_per_s
        table.rows.append([
            model.name, str(model.num_layers), text.count(model.parameters), size(model.bytes),
            size(model.kv_bytes_per_token), quantity(speed) if speed else UNKNOWN,
            text.percent(model.depth_score), text.percent(model.width_used),
            *(_score(model, suite, text) for suite in suites),
        ])  # fmt: skip
        if model.pareto:
            table.chosen.append(index)
    return table.without_empty_columns()


def _score(model: Compared, suite: str, text: Text) -> str:
    figure = model.suites.get(suite)
    if figure is None:
        return UNKNOWN
    if figure.verdict is None:
        return quantity(figure.score)
    kept = text.with_interval(figure.retention, figure.retention_lo, figure.retention_hi)
    verdict = text(f"verdict_{figure.verdict}")
    return text("compare_score", score=figure.score, kept=kept, verdict=verdict)
