"""The pages: verdict first, self-contained, escaped. What Chromium makes of them: `test_chromium.py`."""

import re
from pathlib import Path

import numpy as np
import pytest

from prune.analysis.depth_map import DepthMap
from prune.reporting import figures
from prune.reporting.data import ReportData
from prune.reporting.page import render_depth_map_html, render_html, render_markdown
from prune.reporting.panels import analysis_panels
from prune.wording import message
from prune.wording.text import Text

from .pages import Words
from .sample import sample_report

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)> \"&' {{ 7*7 }}"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    render_html(sample_report(), path)
    return path


def test_the_verdict_is_the_first_line(page: Path) -> None:
    skip_link, badge, verdict = Words(page.read_text(encoding="utf8")).words[:3]
    assert skip_link == "Skip to the verdicts"
    assert badge.endswith("Ship in part")
    assert verdict == "Use 12 of 16 layers for Stories. Keep all 16 layers for Arithmetic."


def test_a_failed_gate_is_the_first_line_of_every_view(tmp_path: Path) -> None:
    data = sample_report()
    data.ship, data.exported = "FAIL", None
    render_html(data, tmp_path / "report.html")
    assert Words((tmp_path / "report.html").read_text(encoding="utf8")).words[1].endswith("Do not ship")
    assert (
        render_markdown(data).splitlines()[0]
        == "# Do not ship: Keep all 16 layers: no shallower candidate passes its gates."
    )


def test_the_page_is_self_contained(page: Path) -> None:
    html = page.read_text(encoding="utf8")
    tags = Words(html).tags
    addresses = [a for _, attrs in tags for name, a in attrs.items() if name in ("src", "href", "data", "action")]
    assert all(address and address.startswith(("data:", "#")) for address in addresses)
    assert html.count("plotly.js v") == 1
    assert "default-src 'none'" in html


def test_names_and_sample_text_are_escaped(tmp_path: Path) -> None:
    data = sample_report(title=HOSTILE)
    assert data.analysis is not None
    data.recipe, data.verdicts[0].evidence.title, data.verdicts[0].evidence.titles = HOSTILE, HOSTILE, {}
    data.warnings = data.not_measured = [message("override_own", reason={"en": HOSTILE})]
    data.verdicts[0].reason, data.provenance = data.warnings[0], {HOSTILE: HOSTILE}
    data.analysis.domains = [HOSTILE]
    data.analysis.arrays[f"by_domain/{HOSTILE}/output_effect/dnll"] = [0.1] * 16
    for lang in ("en", "ja"):
        render_html(data, tmp_path / f"{lang}.html", lang)
        parsed = Words((tmp_path / f"{lang}.html").read_text(encoding="utf8"))
        assert [tag for tag, _ in parsed.tags].count("script") == 3
        assert not any(tag == "img" or "onerror" in attrs for tag, attrs in parsed.tags)
        assert "{{ 7*7 }}" in " ".join(parsed.words)
    outside_the_recipe = render_markdown(data).replace(f"```yaml\n{HOSTILE}\n```", "")
    assert "<" not in outside_the_recipe


def test_the_two_views_show_the_same_figures(page: Path) -> None:
    words = " ".join(Words(page.read_text(encoding="utf8")).words)
    cells = re.findall(r"\d[\d.,]*\u00a0(?:%|[kMG]?B|M)", render_markdown(sample_report()))
    assert len(cells) > 50
    assert all(cell in words for cell in cells)


def test_a_report_with_nothing_measured_still_renders(tmp_path: Path) -> None:
    empty = ReportData(title="m", ship="FAIL")
    for lang in ("en", "ja"):
        render_html(empty, tmp_path / f"{lang}.html", lang)
        assert render_markdown(empty, lang).startswith("# ")


def test_tokens_never_reach_a_page(tmp_path: Path) -> None:
    data = sample_report()
    token = "hf_" + "x9Y8" * 8
    data.recipe += f"hub_token: {token}\n"
    render_html(data, tmp_path / "report.html")
    assert token not in (tmp_path / "report.html").read_text(encoding="utf8")
    assert token not in render_markdown(data)


def test_every_control_can_be_reached_and_named_by_keyboard_and_screen_reader(page: Path) -> None:
    tags = Words(page.read_text(encoding="utf8")).tags
    controls = [attrs for tag, attrs in tags if tag in ("input", "select", "button", "textarea")]
    assert {attrs.get("type") for attrs in controls} == {
        "range",
        "radio",
    }  # native: arrow keys and focus come with them
    assert not any("tabindex" in attrs and attrs["tabindex"] == "-1" for attrs in controls)
    assert any(tag == "label" and attrs.get("for") == "depth" for tag, attrs in tags)
    assert all(attrs.get("tabindex") == "0" for _, attrs in tags if attrs.get("class") == "scroll")
    assert all(attrs.get("aria-label") for _, attrs in tags if attrs.get("role") == "img")


def test_colour_scales_run_from_0_to_1() -> None:
    """Plotly falls back to colours of its own where they do not."""
    maps = [figures.depth_map(DepthMap(np.eye(3), np.eye(3), (6, 2, 2), (4, 4)), ("a", "b"), Text())]
    maps += [panel.figure for panel in analysis_panels(sample_report().analysis, Text())]
    scales = [trace.colorscale for figure in maps for trace in figure.data if trace.type == "heatmap"]
    assert len(scales) > 1
    for scale in scales:
        places = [place for place, _ in scale]
        assert places == sorted(places)
        assert (places[0], places[-1]) == (0, 1)


def test_depth_map_page_names_both_models_and_the_offset(tmp_path: Path) -> None:
    error = np.array([[0.1, 0.5, 0.9], [0.6, 0.2, 0.3]])
    found = DepthMap(error, np.full((2, 3), 1e-3), (60, 20, 20), (8, 8))
    render_depth_map_html(found, ("small <b>", "large"), tmp_path / "map.html")
    page = (tmp_path / "map.html").read_text(encoding="utf8")
    assert "small &lt;b&gt;" in page
    assert "small <b>" not in page
    assert "17" + "\N{NO-BREAK SPACE}%" in page  # best depths 0, 1, 1 against the diagonal 0, 0.5, 1
