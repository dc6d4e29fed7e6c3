"""Any text in Markdown is itself, by the word of a CommonMark parser."""

from __future__ import annotations

import html
import re

import pytest
from markdown_it import MarkdownIt

from prune.wording.markdown import code, escape, fenced

HOSTILE = [
    "# heading", "**bold** _it_ `code`", "[link](https://x.example)", "![img](x)", "<script>alert(1)</script>",
    "a | b | c", "line\n\n# heading", "``` fence", "`", "``a`", "--- \n---", "\\", "&amp; &lt;", "* item", "~~gone~~",
    "<https://x.example>", "x\u202ey\x1b[0m",
]  # fmt: skip


def _text(source: str) -> str:
    rendered = MarkdownIt("commonmark").enable("table").render(source)
    return html.unescape(re.sub(r"</?(p|code|pre)[^>]*>", "", rendered)).strip()


@pytest.mark.parametrize("value", HOSTILE)
def test_escaped_text_is_rendered_as_itself(value: str) -> None:
    seen = value.replace("\n\n", " ").replace(" \n", " ").replace("\u202e", "\\u202e").replace("\x1b", "\\u001b")
    assert _text(f"word {escape(value)}") == f"word {seen}"
    tags = re.findall(r"<(\w+)", MarkdownIt("commonmark").render(f"word {escape(value)}"))
    assert tags == ["p"]


@pytest.mark.parametrize("value", [v for v in HOSTILE if "|" not in v])
def test_code_is_rendered_as_itself(value: str) -> None:
    seen = value.replace("\n\n", " ").replace(" \n", " ").replace("\u202e", "\\u202e").replace("\x1b", "\\u001b")
    rendered = MarkdownIt("commonmark").render(f"word {code(value)} end")
    assert re.findall(r"<(\w+)", rendered) == ["p", "code"]
    assert html.unescape(re.search(r"<code>(.*)</code>", rendered)[1]) == seen


def test_a_cell_of_code_does_not_end_at_a_bar() -> None:
    rendered = MarkdownIt("commonmark").enable("table").render(f"| a |\n| --- |\n| {code('x | y')} |\n")
    assert "<code>x | y</code>" in rendered


def test_a_fence_is_longer_than_any_inside() -> None:
    rendered = MarkdownIt("commonmark").render(fenced("a\n````\n# b", "yaml"))
    assert rendered == '<pre><code class="language-yaml">a\n````\n# b\n</code></pre>\n'
