"""The Japanese views are Japanese: every Latin word on them is a name, an identifier or a unit."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from prune.reporting.compared import render_comparison_html
from prune.reporting.frontier import render_frontier_html
from prune.reporting.markdown import render_markdown
from prune.reporting.page import render_analysis_html, render_html
from prune.wording import message

from .pages import Words
from .sample import sample_analysis, sample_comparison, sample_frontier, sample_report

NAMES = {
    "Block", "Influence", "JavaScript", "KL", "KV", "Linux", "MLP", "NLL", "UTC", "USD", "cpu", "float", "kB", "MB",
    "B", "nat", "transformers", "vLLM", "llama.cpp", "export.fallback",
    # names that the user or lm-eval gave
    "demo", "demo/counting", "stories", "arithmetic", "acc", "bits_per_byte", "story_text", "story_questions", "dnll",
    "skip", "future", "dtype", "bfloat",
    "greedy", "arithmetic_2da", "arithmetic_3da",
    # keys of measurements.safetensors, of the run's own records, and of the recipe
    *("relative_contribution/attn relative_contribution/mlp relative_contribution/layer contribution_cosine/attn "
      "contribution_cosine/mlp contribution_cosine/layer block_influence output_effect/dnll").split(),
}  # fmt: skip
LATIN = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*")


def foreign(words: list[str]) -> list[str]:
    """Pieces of text with a Latin word that is no name."""
    found = []
    for line in words:
        latin = {word.rstrip("./-") for word in LATIN.findall(line)}
        latin = {word if word in NAMES else re.sub(r"[-0-9]+$", "", word) for word in latin}
        if latin - NAMES:
            found.append(line)
    return found


def page_words(html: str) -> list[str]:
    """What a reader of the page meets: text, labels for screen readers, and the words in figures."""
    without_records = re.sub(r'<pre>.*?</pre>|<table class="tree">.*?</table>', "", html, flags=re.S)
    parsed = Words(without_records)
    labels = [attrs[name] or "" for _, attrs in parsed.tags for name in ("aria-label", "data-name") if name in attrs]
    figures = json.loads(re.search(r'id="figure-data">(.*?)</script>', html, re.S)[1])  # type: ignore[index]
    title = re.search(r"<title>(.*?)</title>", html)[1]  # type: ignore[index]
    return [*parsed.words, *labels, *figure_words(figures), title]


def figure_words(value: Any, key: str = "") -> list[str]:
    """Names, titles, notes and hover texts of figures, less their HTML and d3 placeholders."""
    if isinstance(value, dict):
        return [word for name, item in value.items() for word in figure_words(item, name)]
    if isinstance(value, list):
        return [word for item in value for word in figure_words(item, key)]
    shown = key in ("name", "text", "hovertemplate", "hovertext", "customdata")
    return [re.sub(r"%\{[^}]*\}|<[^>]*>", "", value)] if shown and isinstance(value, str) else []


def test_the_report_page_has_no_english(tmp_path: Path) -> None:
    render_html(sample_report(), tmp_path / "ja.html", "ja")
    words = page_words((tmp_path / "ja.html").read_text(encoding="utf8"))
    assert len(words) > 200
    assert foreign(words) == []


def test_the_check_finds_english(tmp_path: Path) -> None:
    render_html(sample_report(), tmp_path / "en.html", "en")
    assert len(foreign(page_words((tmp_path / "en.html").read_text(encoding="utf8")))) > 100


def test_the_analysis_page_has_no_english(tmp_path: Path) -> None:
    analysis = sample_analysis()
    analysis.info["messages"] = [warning.model_dump(mode="json") for warning in WARNINGS]
    render_analysis_html(analysis, tmp_path / "ja.html", "ja")
    assert foreign(page_words((tmp_path / "ja.html").read_text(encoding="utf8"))) == []


WARNINGS = [
    message("warn_short", domain="stories", documents=3),
    message("warn_no_prompt", domain="stories", absent=1, documents=4, tokens=3, measures=["dnll"]),
    message("warn_drowned_answers", domain="stories", completions=3, plain=40, counted=3, tokens=4000),
    message("warn_attention_stays"),
    message("warn_coarse_maxima", measures=["skip", "future"]),
    *(message("warn_not_apart", layers=[1, 2], reason=message(reason))
      for reason in ("apart_single", "apart_output_shape", "apart_unexplained")),
    message("warn_not_apart", layers=[3], reason=message("apart_input_shape", shape=[2, 4], stream=[2, 8])),
    message("warn_few_documents", documents=20, count=2, criterion=message("criterion_block_influence"), share=0.4,
            layers=[3, 4], outlook=message("documents_no_number")),
]  # fmt: skip


def test_the_comparison_page_has_no_english(tmp_path: Path) -> None:
    render_comparison_html(sample_comparison(), tmp_path / "ja.html", "ja")
    assert foreign(page_words((tmp_path / "ja.html").read_text(encoding="utf8"))) == []


@pytest.mark.parametrize("measured", [True, False])
def test_the_page_of_a_sweep_has_no_english(tmp_path: Path, measured: bool) -> None:
    render_frontier_html(sample_frontier(measured), tmp_path / "ja.html", "ja")
    assert foreign(page_words((tmp_path / "ja.html").read_text(encoding="utf8"))) == []


def test_domains_and_tasks_have_the_titles_that_the_recipe_gives_them(tmp_path: Path) -> None:
    data = sample_report()
    data.titles = {"ja": {"stories": "お話", "arithmetic": "算術", "arithmetic_2da": "二桁の和"}}
    render_html(data, tmp_path / "ja.html", "ja")
    words = page_words((tmp_path / "ja.html").read_text(encoding="utf8"))
    page, markdown = "\n".join(words), render_markdown(data, "ja")
    for text in (page, markdown.split("## 来歴")[0]):
        assert {"お話", "算術", "二桁の和"} <= set(re.findall("お話|算術|二桁の和", text))
        assert not re.search(r"stories|arithmetic(?!\\?_3da)", text)
    render_html(data, tmp_path / "en.html", "en")
    assert "お話" not in "\n".join(page_words((tmp_path / "en.html").read_text(encoding="utf8")))


def test_markdown_has_no_english_outside_its_records() -> None:
    text = render_markdown(sample_report(), "ja")
    text = re.sub(r"## 来歴.*?(?=\n## |\Z)|```.*?```", "", text, flags=re.S)
    assert foreign(re.sub(r"&\w+;|\\", "", text).splitlines()) == []


def test_json_spells_its_messages_in_japanese(tmp_path: Path) -> None:
    sample_report().save(tmp_path / "report.json", "ja")
    stored = json.loads((tmp_path / "report.json").read_text(encoding="utf8"))
    assert stored["lang"] == "ja"
    said = [row["text"] for row in (*stored["not_measured"], *stored["warnings"], stored["verdicts"][1]["reason"])]
    assert len(said) == 6
    assert foreign(said) == []


@pytest.mark.parametrize("lang", ["en", "ja"])
def test_no_placeholder_is_left_on_a_page(tmp_path: Path, lang: str) -> None:
    render_html(sample_report(), tmp_path / "page.html", lang)
    words = page_words((tmp_path / "page.html").read_text(encoding="utf8"))
    assert not [line for line in words if re.search(r"\{\w*\}|\bNone\b|\bnan\b|undefined", line)]
