"""Characters that a reader cannot see, written out: no name of a tensor or a file moves the cursor or turns the text.

They appear as JSON would escape them, so that an escaped JSON text still holds the same values.
"""

from __future__ import annotations

import re

UNSEEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"  # control characters (Cc), but for those that `LAYOUT` names
    "\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\u3164\ufeff\uffa0\ufff0-\ufffb\ud800-\udfff"  # of no width, of direction (bidi), halves of a pair
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e00ff]"
)
LAYOUT = re.compile("[\t\n\r]")


def visible(text: str) -> str:
    """The text with every unseen character as `\\u001b`; tabs and line breaks stay."""
    return UNSEEN.sub(_escape, text)


def on_one_line(text: str) -> str:
    """As `visible`, with tabs and line breaks written out too: for a line or a cell that others follow."""
    return LAYOUT.sub(_escape, visible(text))


def _escape(match: re.Match[str]) -> str:
    data = match[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{data[i]:02x}{data[i + 1]:02x}" for i in range(0, len(data), 2))
