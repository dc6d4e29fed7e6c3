"""The page of `prune compare`: quality against cost, how depth is used, and every figure in a table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from prune.files import staged_directory, write_json
from prune.reporting import figures, tables
from prune.reporting.page import render_depth_map_html, write_sheet
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
    write_sheet(
        path, text, title=" · ".join(m.name for m in found.models), kind=text("title_compare"),
        headline=headline(found, text), findings=_findings(found, text), panels=panels,
        shown=[(text("compare_table"), comparison_table(found, text))],
    )  # fmt: skip


def headline(found: Comparison, text: Text) -> str:
    """The fastest checkpoint that passes every suite; where none does, the one that keeps most."""
    reference, *others = found.models
    tested = [m for m in others if m.quality is not None and m.suites]
    passing = [m for m in tested if all(score.verdict == "PASS" for score in m.suites.values())]
    if passing:
        best = max(passing, key=lambda m: _speed(m, reference))
        return text("compare_passes", model=best.name, speed=_speed(best, reference), reference=reference.name)
    if tested:
        best = max(tested, key=lambda m: m.quality or 0.0)
        words = {"model": best.name, "kept": best.quality, "speed": _speed(best, reference)}
        return text("compare_none_passes", reference=reference.name, **words)
    if not others:
        return text("title_compare")
    best = max(others, key=lambda m: _speed(m, reference))
    return text("compare_alone", model=best.name, speed=_speed(best, reference), reference=reference.name)


def _speed(model: Compared, reference: Compared) -> float:
    return model.throughput.decode_tokens_per_s / reference.throughput.decode_tokens_per_s


def _findings(found: Comparison, text: Text) -> list[str]:
    """A line for each checkpoint against the reference, the front, and how depth is used."""
    reference, *others = found.models
    said = []
    for m in others:
        words = {
            "model": m.name, "reference": reference.name, "speed": _speed(m, reference),
            "share": m.footprint.parameters / reference.footprint.parameters,
        }  # fmt: skip
        if m.quality is None:
            said.append(text("compare_row", **words))
            continue
        titles = {suite.name: text.words(suite.words) for suite in m.evidence}
        verdicts = [
            text("compare_verdict", suite=titles[name], verdict=text(f"verdict_{score.verdict}"))
            for name, score in m.suites.items()
        ]
        said.append(text("compare_row_kept", kept=m.quality, verdicts=verdicts, **words))
    if front := [m.name for m in found.models if m.pareto]:
        said.append(text("compare_front", models=front))
    if scores := [(m.name, m.depth_score) for m in found.models if m.depth_score is not None]:
        named = [text("compare_depth_score_of", model=name, score=score) for name, score in scores]
        said.append(text("compare_depth_scores", models=named))
    return said


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
    titles = {suite.name: text.words(suite.words) for suite in found.models[0].evidence}
    suites = list(titles)
    heads = ["model", "layers", "parameters", "bytes", "kv", "decode", "depth_score", "width_used"]
    table = tables.Table([*(text(f"compare_{head}") for head in heads), *titles.values()])
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
