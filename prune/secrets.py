"""Access tokens out of everything that is written or shown: logs, messages, manifests, reports.

Two rules: what has the shape of a known service's token goes, and so does the value of any environment variable whose
name says that it is one. Short values are left alone, since removing them would garble ordinary text.
"""

from __future__ import annotations

import logging
import os
import re

SHAPES = re.compile(r"\b(hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{20,}|gh[pousr]_[A-Za-z0-9]{30,}|AKIA[A-Z0-9]{16})")
IN_ADDRESS = re.compile(r"(?<=://)[^/\s:@]+:[^/\s@]+(?=@)")
NAMES = re.compile(r"(TOKEN|SECRET|PASSWORD|API_KEY)$")
SHORTEST = 12
REMOVED = "[removed]"


def without_secrets(text: str) -> str:
    """The text with every token replaced by `[removed]`."""
    for name, value in os.environ.items():
        if NAMES.search(name) and len(value) >= SHORTEST:
            text = text.replace(value, REMOVED)
    return IN_ADDRESS.sub(REMOVED, SHAPES.sub(REMOVED, text))


class Redacting(logging.Formatter):
    """A formatter whose lines, tracebacks included, carry no token."""

    def format(self, record: logging.LogRecord) -> str:
        return without_secrets(super().format(record))
