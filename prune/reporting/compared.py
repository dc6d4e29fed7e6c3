"""The page of `prune compare`: quality against cost, how depth is used, and every figure in a table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from prune.files import staged_directory, write_exact, write_json
from prune.reporting import figures, tables
from prune.reporting.page import fill_page, render_depth_map_html
from prune.reporting.panels import Panel
from prune.wording.numbers import UNKNOWN, quantity, size
from prune.wording.text import Text

if TYPE_CHECKING:
    from evals.evidence import Evidence
    from prune.analysis.depth_map import DepthMap
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
        "findings": [], "next_step": "",
        "analysis": panels, "phases": [], "stability": [], "warnings": [],
        "layer_table": comparison_table(found, text), "provenance": [], "panels_shown": panels,
    }  # fmt: skip
    write_exact(path, fill_page("analysis.html.jinja", context))


def save_comparison(
    found: Comparison, evidence: Mapping[str, Evidence], fitted: DepthMap | None, directory: Path, lang: str = "en"
) -> None:
    """Write compare.json, compare.html, `evidence/NAME/` and the depth map; the directory appears only when complete.

    Raises:
        UsageError: the directory is not empty, or `lang` is neither `en` nor `ja`.
    """
    first, second = (model.name for model in found.models[:2])
    with staged_directory(directory) as staging:
        found.save(staging / "compare.json", lang)
        render_comparison_html(found, staging / "compare.html", lang)
        for name, judged in evidence.items():
            judged.save(staging / "evidence" / name)
        if fitted is not None:
            write_json(staging / "depth_map.json", fitted.as_dict())
            render_depth_map_html(fitted, (first, second), staging / "depth_map.html", lang)


def comparison_table(found: Comparison, text: Text) -> tables.Table:
    """One row a checkpoint; those on the Pareto front are stressed."""
    suites = list(found.models[0].suites)
    heads = ["model", "layers", "parameters", "bytes", "kv", "decode", "depth_score", "width_used"]
    table = tables.Table([*(text(f"compare_{head}") for head in heads), *suites])
    for index, model in enumerate(found.models):
        cost = model.footprint
        table.rows.append([
            model.name, str(cost.layers), text.count(cost.parameters), size(cost.bytes), size(cost.kv_bytes_per_token),
            quantity(model.throughput.decode_tokens_per_s),
            text.percent(model.depth_score), text.percent(model.width_used),
            *(_score(model, suite, text) for suite in suites),
        ])  # fmt: skip
        if model.pareto:
            table.chosen.append(index)
    return table.without_empty_columns()


def _score(model: Compared, suite: str, text: Text) -> str:
    score = model.suites.get(suite)
    if score is None or score.value is None:
        return UNKNOWN
    if score.verdict is None:
        return quantity(score.value)
    verdict = text(f"verdict_{score.verdict}")
    return text("compare_score", score=score.value, kept=text.with_interval(*score.retained), verdict=verdict)
