"""The style sheet: enough contrast in light and dark, every depth in print, a face for Japanese."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import prune.reporting.page as page

CSS = (Path(page.TEMPLATES) / "style.css").read_text(encoding="utf8")
LIGHT, DARK = (
    dict(re.findall(r"--([\w-]+):\s*(#[0-9a-f]{6})", part))
    for part in CSS.split("* { box-sizing")[0].split("@media", 1)
)


def luminance(colour: str) -> float:
    """Relative luminance of an sRGB colour (WCAG 2.2)."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """WCAG's contrast ratio, 1 to 21."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_the_ratio_is_the_standards() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("ink", ["ink", "ink-2", "pass", "fail", "wait", "accent", "series-1"])
def test_text_can_be_read_on_page_and_card(theme: dict[str, str], ink: str) -> None:
    assert contrast(theme[ink], theme["paper"]) >= 4.5
    assert contrast(theme[ink], theme["card"]) >= 4.5


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_lines_of_figures_stand_out(theme: dict[str, str]) -> None:
    assert all(contrast(theme[f"series-{index}"], theme["card"]) >= 3 for index in range(1, 7))


def test_print_shows_every_depth_and_no_controls() -> None:
    printed = CSS[CSS.index("@media print") :]
    assert re.search(r"\.stop\[hidden\]\s*\{\s*display:\s*block", printed)
    assert re.search(r"\.controls[^{]*\{\s*display:\s*none", printed)


def test_focus_can_be_seen_and_japanese_has_faces() -> None:
    assert re.search(r":focus-visible\s*\{\s*outline:\s*3px", CSS)
    for face in ("Hiragino Sans", "Noto Sans CJK JP", "Yu Gothic", "Meiryo"):
        assert face in CSS
