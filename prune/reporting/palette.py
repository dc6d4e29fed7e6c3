"""The colours of the report's light theme, read from its style sheet, for what no browser draws with it."""

from __future__ import annotations

import functools
import re
from pathlib import Path

STYLE = Path(__file__).parent / "templates" / "style.css"


@functools.cache
def palette() -> dict[str, str]:
    """Name of a CSS variable -> `#rrggbb` or `rgba(...)`, as the first `:root` of style.css has it."""
    style = STYLE.read_text(encoding="utf8")
    return dict(re.findall(r"--([\w-]+):\s*(#[0-9a-f]{6}|rgba\([^)]*\))", style[: style.index("@media")]))
