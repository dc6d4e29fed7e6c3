"""Any text inside Markdown as itself: nothing in it starts a heading, a table, a link, HTML or the end of a block."""

from __future__ import annotations

import re

from evals.visible import on_one_line, visible

SPACES = re.compile(r"[^\S\u00a0]+")  # line breaks too, but not the one between a figure and its unit
SPECIAL = re.compile(r"([\\`*_\[\]|#~])")


def escape(value: str) -> str:
    """The value as literal text on one line: HTML's and Markdown's characters lose their meaning."""
    value = value.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return SPECIAL.sub(r"\\\1", on_one_line(SPACES.sub(" ", value.strip())))


def code(value: str) -> str:
    """The value as code within a line; the fence is longer than any run of backticks in it (CommonMark 6.1)."""
    value = on_one_line(SPACES.sub(" ", value.strip())).replace("|", "\\|") or "?"
    fence = "`" * (max((len(run) for run in re.findall(r"`+", value)), default=0) + 1)
    space = " " if value[0] == "`" or value[-1] == "`" else ""
    return f"{fence}{space}{value}{space}{fence}"


def fenced(body: str, language: str = "") -> str:
    """The text as a block of code."""
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall(r"`+", body))])
    return f"{fence}{language}\n{visible(body).rstrip()}\n{fence}"
