"""The pages in Chromium: no complaints, nothing wider than the window, keyboard, dark, print, figures of the JSON."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from prune.reporting.compared import render_comparison_html
from prune.reporting.frontier import render_frontier_html
from prune.reporting.page import render_analysis_html, render_html

from .pages import Words, needs_chromium, opened
from .sample import sample_analysis, sample_comparison, sample_frontier, sample_report
from .test_page import HOSTILE

pytestmark = needs_chromium
WIDTHS = (390, 800, 1280)
PAPER = 688  # pixels between the margins of A4, as style.css sets them
PAGES = {
    "report": lambda path, lang: render_html(sample_report(), path, lang),
    "analysis": lambda path, lang: render_analysis_html(sample_analysis(), path, lang),
    "sweep": lambda path, lang: render_frontier_html(sample_frontier(), path, lang),
    "comparison": lambda path, lang: render_comparison_html(sample_comparison(), path, lang),
}
WIDER = """() => [document.documentElement, ...document.querySelectorAll(".plot")]
  .filter((part) => part.scrollWidth > part.clientWidth + 1).map((part) => part.id || "page")"""
CLIPPED = """() => [...document.querySelectorAll(".plot")].flatMap((plot) => {
  const edge = plot.getBoundingClientRect();
  return [...plot.querySelectorAll(".xtitle, .ytitle, .xtick text, .ytick text")].filter((text) => {
    const box = text.getBoundingClientRect();
    return box.left < edge.left - 1 || box.right > edge.right + 1;
  }).map((text) => `${plot.id}: ${text.textContent}`);
})"""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every page in both languages, as NAME-LANG.html."""
    root = tmp_path_factory.mktemp("pages")
    for name, render in PAGES.items():
        for lang in ("en", "ja"):
            render(root / f"{name}-{lang}.html", lang)
    return root


def settled(page: Any, question: str) -> list[str]:
    """An answer that should be empty; Plotly follows a new width a tenth of a second later, more where it is busy."""
    for _ in range(20):
        if not (found := page.evaluate(question)):
            break
        page.wait_for_timeout(150)
    return found


def visible_stops(page: Any) -> list[str]:
    return page.eval_on_selector_all(".stop", "stops => stops.filter(s => !s.hidden).map(s => s.dataset.name)")


@pytest.mark.parametrize(
    "name",
    [
        *("report-en", "analysis-ja", "sweep-ja", "comparison-en"),
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("report-ja", "analysis-en", "sweep-en", "comparison-ja")
        ),
    ],
)
def test_a_page_draws_every_figure_at_every_width_in_light_and_dark(browser: Any, written: Path, name: str) -> None:
    with opened(browser, written / f"{name}.html") as (page, complaints):
        figures = json.loads(page.locator("#figure-data").text_content())
        assert page.locator(".main-svg").count() >= len(figures) > 0
        backgrounds = set()
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            assert settled(page, WIDER) == [], width
            assert settled(page, CLIPPED) == [], width
        for scheme in ("dark", "light"):
            page.emulate_media(color_scheme=scheme)
            backgrounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert len(backgrounds) == 2
        assert complaints == []


def test_the_keyboard_alone_reaches_the_verdicts_and_moves_through_the_depths(browser: Any, written: Path) -> None:
    with opened(browser, written / "report-en.html") as (page, complaints):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        assert page.locator(".skip").bounding_box()["x"] >= 0  # seen while it has the focus
        page.keyboard.press("Enter")
        assert page.evaluate("location.hash") == "#verdicts"
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "depth"
        assert visible_stops(page) == ["12 layers, healed"]
        page.keyboard.press("ArrowRight")
        assert visible_stops(page) == ["14 layers, healed"]
        assert page.get_attribute("#depth", "aria-valuetext") == "14 layers, healed"
        page.keyboard.press("Tab")
        page.keyboard.press("ArrowLeft")
        assert visible_stops(page) == ["14 layers, pruned"]
        assert page.evaluate("location.hash") == "#depth=14&stage=pruned"
        page.locator("details > summary").first.focus()
        page.keyboard.press("Enter")
        assert page.locator("details").first.get_attribute("open") is not None
        assert complaints == []


def test_the_address_moves_the_slider(browser: Any, written: Path) -> None:
    with opened(browser, written / "report-en.html", "#depth=10&stage=pruned") as (page, complaints):
        assert visible_stops(page) == ["10 layers, pruned"]
        assert page.get_attribute("#depth", "aria-valuetext") == "10 layers, pruned"
        assert complaints == []


@pytest.mark.parametrize("name", ["report-en", pytest.param("comparison-ja", marks=pytest.mark.slow)])
def test_on_paper_figures_have_the_full_width_and_nothing_is_wider(browser: Any, written: Path, name: str) -> None:
    """What is wider than the paper makes Chromium print the whole document smaller."""
    with opened(browser, written / f"{name}.html", width=PAPER) as (page, complaints):
        page.emulate_media(media="print")
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.evaluate("document.documentElement.scrollWidth") <= PAPER
        inside = """(plot) => plot.querySelector(".main-svg").clientWidth / plot.clientWidth"""
        shares = [page.evaluate(inside, plot) for plot in page.query_selector_all(".plot")]
        assert shares
        assert all(0.99 < share < 1.01 for share in shares)
        widths = {round(page.evaluate("(plot) => plot.clientWidth", plot)) for plot in page.query_selector_all(".plot")}
        assert min(widths) > 0.9 * (PAPER - 60)
        assert page.locator("details:not([open])").count() == 0
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert page.locator("details[open]").count() == 0
        printed = page.pdf(format="A4", prefer_css_page_size=True)
        assert printed.startswith(b"%PDF")
        assert complaints == []


def test_the_figures_of_a_comparison_are_those_of_its_json(browser: Any, written: Path) -> None:
    found = json.loads(sample_comparison().model_dump_json())
    with opened(browser, written / "comparison-en.html") as (page, _):
        dots = page.evaluate("document.getElementById('figure-quality-cost').data.filter(t => t.mode == 'markers')")
        cells = page.locator("section .fold tbody tr").all_inner_texts()
    speeds = {row["name"]: 1000 / row["throughput"]["decode_tokens_per_s"] for row in found["models"]}
    assert {dot["name"]: dot["x"][0] for dot in dots} == pytest.approx(speeds)
    kept = {m["name"]: 1.0 if m["is_reference"] else m["evidence"][0]["retention"] for m in found["models"]}
    assert {dot["name"]: dot["y"][0] for dot in dots} == pytest.approx(kept)
    for row, text in zip(found["models"], cells, strict=True):
        assert row["name"] in text
        assert f"{row['footprint']['parameters'] / 1e6:g}\N{NO-BREAK SPACE}M" in text


def test_the_figures_of_a_sweep_are_those_of_its_json(browser: Any, written: Path) -> None:
    points = sample_frontier()["points"]
    with opened(browser, written / "sweep-en.html") as (page, _):
        lines = page.evaluate("document.getElementById('figure-frontier').data.map(t => [t.name, t.x, t.y])")
        headline = page.locator("h1").inner_text()
        rows = page.locator("section .fold tbody tr").all_inner_texts()
    by_name = {name: (x, y) for name, x, y in lines}
    for name, (x, y) in by_name.items():
        scores = [p["by_domain"][name] if name in p["by_domain"] else p["score"] for p in points]
        assert x == [p["removed"] for p in points]
        assert y == pytest.approx([score["value"] for score in scores])
    assert by_name.keys() >= {"stories", "arithmetic"}
    assert headline == "Leaving out 3 of 16 layers costs 0.27 nats per token, leaving out 6 costs 1.1."
    assert len(rows) == len(points)
    assert all(str(point["num_layers"]) in row.split() for point, row in zip(points, rows, strict=True))


def test_hostile_names_run_nothing_in_chromium(browser: Any, tmp_path: Path) -> None:
    data = sample_report(title=HOSTILE)
    data.verdicts[0].evidence.title, data.verdicts[0].evidence.titles = HOSTILE, {}
    data.titles = {"ja": {"stories": HOSTILE}}
    render_html(data, tmp_path / "report.html", "ja")
    render_analysis_html(sample_analysis(model=HOSTILE), tmp_path / "analysis.html")
    for name in ("report", "analysis"):
        with opened(browser, tmp_path / f"{name}.html") as (page, complaints):
            assert page.locator("img").count() == 0
            assert complaints == []
            assert re.search(r"alert\(1\)", " ".join(Words(page.content()).words))
