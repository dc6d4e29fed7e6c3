"""What a test reads off a page: its words, its tags, and a Chromium to open it in."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


class Words(HTMLParser):
    """Text of the body outside scripts and styles, and every tag with its attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._hidden = False
        # As in a browser, a script ends at the first end tag; bodies are dropped, as html.parser crawls through them.
        self.feed(re.sub(r"(<script[^>]*>).*?(</script>)", r"\1\2", html, flags=re.S))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._hidden = tag in ("script", "style", "title")

    def handle_endtag(self, tag: str) -> None:
        self._hidden = False

    def handle_data(self, data: str) -> None:
        if data.strip() and not self._hidden:
            self.words.append(data.strip())


@contextlib.contextmanager
def opened(browser: Any, path: Path, fragment: str = "", *, width: int = 1280) -> Iterator[tuple[Any, list[str]]]:
    """The page after its scripts ran, and the console's complaints so far and to come."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    complaints: list[str] = []
    page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(f"{path.as_uri()}{fragment}")
    page.wait_for_selector("html[data-drawn]", state="attached")
    try:
        yield page, complaints
    finally:
        page.close()
