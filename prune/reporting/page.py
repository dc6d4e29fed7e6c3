"""The HTML pages: one self-contained file each, verdict first, no network.

Templates and plain JavaScript lie in `templates/`; Jinja2 escapes every value that comes from data. Assumptions:
plotly.js is inlined once; figures travel as JSON whose `<`, `>` and `&` are escaped, so no text can end the script
element; a Content-Security-Policy forbids every connection.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.files import write_text
from prune.reporting import captions, figures, tables
from prune.reporting.data import AnalysisView, Candidate, ReportData, finite
from prune.reporting.markdown import render_markdown
from prune.reporting.panels import Panel, analysis_panels, evidence_panels
from prune.reporting.text import Text, duration, interval, money, percent, quantity, scaled, times
from prune.secrets import without_secrets

if TYPE_CHECKING:
    from prune.analysis.depth_map import DepthMap
    from prune.analysis.result import Analysis

__all__ = ["render_analysis_html", "render_depth_map_html", "render_html", "render_markdown"]

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Tile:
    """One of the first screen's answers: a big value, or a few (name, value) lines."""

    name: str
    detail: str
    value: str = ""
    several: list[tuple[str, str]] = field(default_factory=list)


def render_html(data: ReportData, path: Path, lang: str = "en") -> None:
    """Write the report as one self-contained page, atomically.

    Raises:
        UsageError: `lang` is neither `en` nor `ja`.
    """
    write_text(path, fill_page("report.html.jinja", _report_context(data, Text(lang))))


def render_analysis_html(analysis: Analysis, path: Path, lang: str = "en", title: str = "") -> None:
    """Write the page of `prune analyze`: every figure that the analysis has arrays for, with its caption.

    Raises:
        UsageError: `lang` is neither `en` nor `ja`.
    """
    text, view = Text(lang), AnalysisView.from_analysis(analysis)
    info = {
        key: value
        for key, value in analysis.info.items()
        if key not in ("phase_changes", "stability", "warnings", "num_layers")
    }
    name = title or str(analysis.info.get("model", ""))
    context = {
        "text": text, "title": name, "page_title": f"{text('analysis_report')}: {name}",
        "headline": captions.contribution(view, text) or text("analysis_report"),
        "analysis": analysis_panels(view, text), "phases": tables.phase_lines(view, text),
        "stability": tables.stability_lines(view, text), "warnings": view.warnings,
        "layer_table": tables.layer_table(view, text), "provenance": tables.pairs(finite(info)),
    }  # fmt: skip
    write_text(path, fill_page("analysis.html.jinja", {**context, "panels_shown": context["analysis"]}))


def render_depth_map_html(found: DepthMap, names: tuple[str, str], path: Path, lang: str = "en") -> None:
    """Write the page of `prune compare --depth_map`.

    Args:
        found: the map.
        names: of the first and the second model.

    Raises:
        UsageError: `lang` is neither `en` nor `ja`.
    """
    text = Text(lang)
    caption = text(
        "caption_depth_map", a=names[0], b=names[1], offset=percent(found.offset, 0), excess=percent(found.excess)
    )
    figure = figures.depth_map(found, names, text)
    panel = Panel("figure-depth-map", text("title_depth_map"), caption, figure, wide=True)
    details = {key: value for key, value in found.as_dict().items() if key not in ("error", "ridge")}
    context = {
        "text": text, "title": " → ".join(names), "page_title": f"{text('title_depth_map')}: {' → '.join(names)}",
        "headline": text("title_depth_map"), "analysis": [panel], "phases": [], "stability": [], "warnings": [],
        "layer_table": tables.Table([]), "provenance": tables.pairs(finite(details)), "panels_shown": [panel],
    }  # fmt: skip
    write_text(path, fill_page("analysis.html.jinja", context))


def fill_page(template: str, context: dict[str, Any]) -> str:
    """A page from a template. The scripts go in last: they are ours, and far too long to pass through Jinja."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = environment.get_template(template).render(
        **context,
        style=Markup((TEMPLATES / "style.css").read_text(encoding="utf8")),
        script=Markup((TEMPLATES / "report.js").read_text(encoding="utf8")),
        figure_json=Markup(_figure_json(context["panels_shown"])),
        plotly=Markup("@PLOTLY@"),
    )
    head, tail = without_secrets(page).rsplit("@PLOTLY@", 1)
    return f"{head}{get_plotlyjs()}{tail}"


def _figure_json(panels: list[Panel]) -> str:
    figures = {panel.identifier: json.loads(panel.figure.to_json(engine="json")) for panel in panels}
    text = json.dumps(figures, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _report_context(data: ReportData, text: Text) -> dict[str, Any]:
    shown = data.shown
    drop = shown.drop if shown else []
    evidence = evidence_panels(data, text)
    analysis = analysis_panels(data.analysis, text, drop) if data.analysis else []
    start = shown or (data.candidates[-1] if data.candidates else None)
    ends = [end for row in data.verdicts for end in (row.retention, row.hi, row.floor) if end is not None]
    return {
        "text": text, "data": data, "headline": captions.headline(data, text), "tiles": _tiles(data, text),
        "page_title": f"{text('report')}: {data.title}", "start": start, "drop": drop,
        "stages": [s for s in ("pruned", "healed") if any(c.stage == s for c in data.candidates)],
        "exported_key": f"{data.exported.num_layers}-{data.exported.stage}" if data.exported else "",
        "total_layers": data.original.num_layers if data.original else max(data.depths, default=0),
        "scale": max([1.0, *ends]), "place": _place, "width": _width, "percent": percent, "interval": interval,
        "layers_stage": lambda layers, stage: text("layers_stage", layers=layers, stage=text(f"stage_{stage}")),
        "ordered_suites": lambda c: [(suite, c.suites[suite]) for suite in data.suites if suite in c.suites],
        "reason": partial(captions.reason, data, text=text), "floor_accuracy": data.floor_accuracy,
        "facts": partial(tables.facts, data=data, text=text),
        "evidence": evidence, "analysis": analysis, "panels_shown": evidence + analysis,
        "phases": tables.phase_lines(data.analysis, text), "stability": tables.stability_lines(data.analysis, text),
        "warnings": data.warnings + (data.analysis.warnings if data.analysis else []),
        "candidate_table": tables.candidate_table(data, text), "task_table": tables.task_table(data, text),
        "layer_table": tables.layer_table(data.analysis, text), "plan_table": tables.plan_table(data, text),
        "draft_table": tables.draft_table(data, text), "provenance": tables.pairs(data.provenance),
        "durations": tables.duration_pairs(data, text),
    }  # fmt: skip


def _place(value: float, scale: float = 1.0) -> str:
    """Distance from the left end of a bar in per cent."""
    return f"{100 * min(1.0, max(0.0, value / scale)):.2f}"


def _width(lo: float, hi: float, scale: float = 1.0) -> str:
    return f"{float(_place(hi, scale)) - float(_place(lo, scale)):.2f}"


def _tiles(data: ReportData, text: Text) -> list[Tile]:
    """The first screen's answers: what is saved, how much faster, what is lost, when healing pays."""
    shown, original = data.shown, data.original
    if shown is None or original is None or shown.stage == "original":
        return []
    tiles: list[Tile] = []
    if shown.parameters and original.parameters:
        detail = text(
            "save_detail", before=scaled(original.parameters), after=scaled(shown.parameters),
            before_bytes=scaled(original.bytes, "B"), after_bytes=scaled(shown.bytes, "B"),
        )  # fmt: skip
        share = percent(1 - shown.parameters / original.parameters, 0)
        tiles.append(Tile(text("save"), detail, text("save_value", share=share)))
    if shown.decode_speedup is not None:
        detail = text(
            "faster_detail", before=quantity(original.decode_tokens_per_s), after=quantity(shown.decode_tokens_per_s),
            setting=(data.cost.setting if data.cost else "") or text("setting_unknown"),
        )  # fmt: skip
        tiles.append(Tile(text("faster"), detail, text("faster_value", ratio=times(shown.decode_speedup))))
    return [*tiles, *_loss_tile(data, shown, text), *_healing_tile(data, shown, text)]


def _loss_tile(data: ReportData, shown: Candidate, text: Text) -> list[Tile]:
    kept = [(data.suite_title(s), shown.suites[s].retention) for s in data.suites if s in shown.suites]
    losses = [(name, retention) for name, retention in kept if retention is not None]
    if not losses:
        return []
    several = [(name, f"−{percent(max(0.0, 1 - r))}" if r < 1 else text("nothing_lost")) for name, r in losses[:4]]
    return [Tile(text("lose"), text("lose_detail"), several=several)]


def _healing_tile(data: ReportData, shown: Candidate, text: Text) -> list[Tile]:
    cost, name = data.cost, text("pays")
    if shown.stage != "healed":
        return [Tile(name, text("pays_never_detail"), text("pays_never"))]
    seconds = cost.healing_seconds if cost and cost.healing_seconds is not None else shown.heal_seconds
    if cost is None or cost.break_even_tokens is None:
        if seconds is None:
            return []
        if shown.decode_speedup is not None and shown.decode_speedup <= 1:
            return [Tile(name, text("pays_slower_detail", time=duration(seconds)), text("pays_slower"))]
        return [Tile(name, text("pays_time_detail"), text("pays_time_value", time=duration(seconds)))]
    if cost.healing_cost is None:
        detail = text("pays_detail_time", time=duration(seconds))
    else:
        detail = text("pays_detail", time=duration(seconds), cost=money(cost.healing_cost, cost.currency))
    if cost.planned_tokens:
        detail = text("pays_planned", tokens=scaled(cost.planned_tokens))
    if cost.price_note:
        detail += f"; {cost.price_note}"
    return [Tile(name, detail, text("pays_value", tokens=scaled(cost.break_even_tokens)))]
