"""One Chromium for the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from .pages import CHROMIUM


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Driven by playwright, which is stopped again at the module's end: its event loop would bar others."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield found
        found.close()
