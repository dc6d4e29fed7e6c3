"""The HTML pages: one self-contained file each, verdict first, no network.

Templates and plain JavaScript lie in `templates/`; Jinja2 escapes every value that comes from data. Assumptions:
plotly.js is inlined once; figures travel as JSON whose `<`, `>` and `&` are escaped, so no text can end the script
element; a Content-Security-Policy forbids every connection.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.score import Score
from evals.secrets import redacted, without_secrets
from evals.visible import visible
from prune.files import write_exact
from prune.reporting import figures, findings, tables
from prune.reporting.answers import answers, headline
from prune.reporting.data import AnalysisView, ReportData, finite
from prune.reporting.markdown import render_markdown
from prune.reporting.panels import Panel, analysis_panels, evidence_panels
from prune.wording import Message, Text

if TYPE_CHECKING:
    from prune.analysis.depth_map import DepthMap
    from prune.analysis.result import Analysis

__all__ = ["render_analysis_html", "render_depth_map_html", "render_html", "render_markdown"]

TEMPLATES = Path(__file__).parent / "templates"


def render_html(data: ReportData, path: Path, lang: str = "en") -> None:
    """Write the report as one self-contained page, atomically.

    Raises:
        UsageError: `lang` is neither `en` nor `ja`.
    """
    write_exact(path, fill_page("report.html.jinja", _report_context(data.without_secrets(), data.text(lang))))


def render_analysis_html(analysis: Analysis, path: Path, lang: str = "en", title: str = "") -> None:
    """Write the page of `prune analyze`: every figure that the analysis has arrays for, with its caption.

    Raises:
        UsageError: `lang` is neither `en` nor `ja`.
    """
    text, view = Text(lang), AnalysisView.from_analysis(analysis)
    skipped = ("phase_changes", "stability", "warnings", "num_layers")
    info = redacted({key: value for key, value in analysis.info.items() if key not in skipped})
    write_sheet(
        path, text, title=title or model_name(str(analysis.info.get("model", ""))), kind=text("analysis_report"),
        headline=findings.headline(view, text), findings=findings.findings(view, text), next_step=_next_step(view),
        panels=analysis_panels(view, text), legend=text("intervals_legend"),
        notes=[
            (text("phase"), tables.phase_lines(view, text)), (text("stability"), tables.stability_lines(view, text)),
            (text("warnings"), said(view.warnings, text)),
        ],
        details=[(text("figure_table"), tables.layer_table(view, text))], provenance=tables.pairs(finite(info)),
    )  # fmt: skip


def render_depth_map_html(found: DepthMap, names: tuple[str, str], path: Path, lang: str = "en") -> None:
    """Write the page of `prune compare --depth_map`.

    Args:
        found: the map.
        names: of the first and the second model.

    Raises:
        UsageError: `lang` is neither `en` nor `ja`.
    """
    text = Text(lang)
    caption = text("caption_depth_map", a=names[0], b=names[1], offset=found.offset, excess=found.excess)
    figure = figures.depth_map(found, names, text)
    details = {key: value for key, value in found.as_dict().items() if key not in ("error", "ridge")}
    write_sheet(
        path, text, title=" → ".join(names), kind=text("title_compare"), headline=text("title_depth_map"),
        panels=[Panel("figure-depth-map", text("title_depth_map"), caption, figure, wide=True)],
        provenance=tables.pairs(finite(details)),
    )  # fmt: skip


def write_sheet(
    path: Path,
    text: Text,
    *,
    title: str,
    kind: str,
    headline: str,
    panels: Sequence[Panel],
    findings: Sequence[str] = (),
    next_step: str = "",
    legend: str = "",
    shown: Sequence[tuple[str, tables.Table]] = (),
    notes: Sequence[tuple[str, list[str]]] = (),
    details: Sequence[tuple[str, tables.Table]] = (),
    provenance: Sequence[tuple[str, str]] = (),
) -> None:
    """Write a page of one subject, conclusion first: findings and figures, then tables, notes and records.

    Args:
        kind: what page it is, beside the title.
        next_step: commands that follow.
        legend: how to read the figures.
        shown, details: tables under their titles, open and to be unfolded.
        notes: lists under their titles.
    """
    context = {
        "text": text, "title": title, "kind": kind, "page_title": f"{kind}: {title}", "headline": headline,
        "found": findings, "next_step": next_step, "panels_shown": list(panels), "legend": legend, "shown": shown,
        "notes": notes, "details": details, "provenance": provenance,
    }  # fmt: skip
    write_exact(path, fill_page("sheet.html.jinja", context))


def model_name(model: str) -> str:
    """A model as its page calls it: a hub id whole, of a directory on this machine the name."""
    return Path(model).name if model.startswith((".", "/", "~")) else model


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
    head, tail = visible(without_secrets(page)).rsplit("@PLOTLY@", 1)
    return f"{head}{get_plotlyjs()}{tail}"


def _next_step(view: AnalysisView) -> str:
    """The commands that follow an analysis."""
    layers = view.num_layers - findings.layers_to_go(view)
    return (
        "prune plan ANALYSIS -o frontier --sweep\n"
        f"prune plan ANALYSIS -o plan.json --num_layers {layers}\n"
        "prune cut MODEL -o cut --plan plan.json"
    )


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
    judged = [row.evidence for row in data.verdicts]
    ends = [end for e in judged for end in (e.retention, e.retention_hi, e.floor) if end is not None]
    return {
        "text": text, "data": data, "headline": headline(data, text), "answers": answers(data, text),
        "page_title": f"{text('report')}: {data.title}", "drop": drop,
        "start": shown or (data.candidates[-1] if data.candidates else None),
        "stages": [s for s in ("pruned", "healed") if any(c.stage == s for c in data.candidates)],
        "exported_key": f"{data.exported.num_layers}-{data.exported.stage}" if data.exported else "",
        "scale": (scale := max([1.0, *ends])), "bar_of": partial(_bar, data, scale), "place": _place, "width": _width,
        "layers_stage": lambda layers, stage: text("layers_stage", layers=layers, stage=text(f"stage_{stage}")),
        "ordered_suites": lambda c: [(suite, c.suites[suite]) for suite in data.suites if suite in c.suites],
        "measure": partial(tables.measure, text=text), "scored": partial(tables.scored, text=text),
        "facts": partial(tables.facts, data=data, text=text),
        "evidence": evidence, "analysis": analysis, "panels_shown": evidence + analysis,
        "findings": findings.findings(data.analysis, text) if data.analysis else [],
        "phases": tables.phase_lines(data.analysis, text), "stability": tables.stability_lines(data.analysis, text),
        "not_measured": said(data.not_measured, text),
        "warnings": said(data.warnings + (data.analysis.warnings if data.analysis else []), text),
        "candidate_table": tables.candidate_table(data, text), "task_table": tables.task_table(data, text),
        "layer_table": tables.layer_table(data.analysis, text), "plan_table": tables.plan_table(data, text),
        "draft_table": tables.draft_table(data, text), "provenance": tables.pairs(data.provenance),
        "durations": tables.duration_pairs(data, text),
    }  # fmt: skip


def _bar(data: ReportData, scale: float, suite: str, score: Score) -> dict[str, Any]:
    """What the bar of a suite shows: a share itself, of any other metric the share kept of the original's."""
    if score.is_share:
        return {"value": score.value, "lo": score.lo, "hi": score.hi, "floor": data.floor_score(suite), "scale": 1.0}
    value, lo, hi = (1.0, None, None) if score.side == "original" else score.retained
    return {"value": value, "lo": lo, "hi": hi, "floor": data.floor(suite), "scale": scale}


def said(messages: list[Message], text: Text) -> list[str]:
    """Messages in the page's language."""
    return [text.say(message) for message in messages]


def _place(value: float, scale: float = 1.0) -> str:
    """Distance from the left end of a bar in per cent."""
    return f"{100 * min(1.0, max(0.0, value / scale)):.2f}"


def _width(lo: float, hi: float, scale: float = 1.0) -> str:
    return f"{float(_place(hi, scale)) - float(_place(lo, scale)):.2f}"
