"""What a test reads off a page: its words, its tags, and what Chromium makes of it."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

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


def browse(path: Path, fragment: str = "", size: str = "1280,900", action: str = "--dump-dom") -> tuple[str, list[str]]:
    """The document after its scripts ran, and the console's complaints."""
    switches = (
        "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-dev-shm-usage "
        "--enable-logging=stderr --v=0 --virtual-time-budget=8000 "
    )
    profile = f"--user-data-dir={path.parent / 'profile'}"
    command = [str(CHROMIUM), *switches.split(), f"--window-size={size}", action, profile, f"{path.as_uri()}{fragment}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
