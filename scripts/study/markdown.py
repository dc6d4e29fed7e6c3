"""What tables are made of: rows of Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Results = Mapping[str, Mapping[str, Any]]
"""Unit -> what it found."""


def row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def rule(count: int) -> str:
    return row(["---"] * count)
