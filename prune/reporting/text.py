"""Words and numbers as a reader sees them: the strings of one language, and figures with their units.

All sentences live in `strings.yaml`, so a page has one language throughout. Assumptions: every language has every key
with the same placeholders (a test checks it); what is unknown is written as an en dash.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from prune.errors import UsageError, nearest

UNKNOWN = "–"
NBSP = "\N{NO-BREAK SPACE}"  # a figure and its unit stay on one line


@functools.cache
def languages() -> dict[str, dict[str, str]]:
    """Language code -> key -> sentence with `{placeholders}`."""
    import yaml

    return yaml.safe_load((Path(__file__).parent / "strings.yaml").read_text(encoding="utf8"))


class Text:
    """The sentences of one language: `text("save", layers=4)`."""

    def __init__(self, lang: str = "en") -> None:
        """
        Raises:
            UsageError: no strings for that language.
        """
        known = languages()
        if lang not in known:
            raise UsageError(f"--lang: unknown language {nearest(lang, sorted(known))}")
        self.lang = lang
        self._strings = known[lang]

    def __call__(self, key: str, /, **values: Any) -> str:
        return self._strings[key].format(**values)

    def known(self, prefix: str, word: str) -> str:
        """The translation of a word from a closed list, or the word itself when it is the user's own."""
        return self._strings.get(f"{prefix}_{word.lower().replace(' ', '_')}", word)

    def ranges(self, layers: Iterable[int]) -> str:
        """Layer indices as short ranges: [3, 8, 9, 10] -> '3, 8–10'."""
        return self("list_comma").join(
            str(first) if first == last else f"{first}–{last}" for first, last in runs(layers)
        )


def runs(layers: Iterable[int]) -> list[tuple[int, int]]:
    """Contiguous runs of sorted indices as (first, last), both ends included."""
    found: list[tuple[int, int]] = []
    for layer in sorted(layers):
        if found and found[-1][1] == layer - 1:
            found[-1] = (found[-1][0], layer)
        else:
            found.append((layer, layer))
    return found


def percent(share: float | None, digits: int = 1) -> str:
    """0.9434 -> '94.3 %'."""
    return UNKNOWN if share is None else f"{100 * share:.{digits}f}{NBSP}%"


def interval(lo: float | None, hi: float | None) -> str:
    """(0.91, 0.97) -> '91.0–97.0 %'."""
    return "" if lo is None or hi is None else f"{100 * lo:.1f}–{100 * hi:.1f}{NBSP}%"


def quantity(value: float | None, digits: int = 3) -> str:
    """A plain number with `digits` significant digits and thousands separators."""
    if value is None:
        return UNKNOWN
    if value == 0 or abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:.{digits}g}" if abs(value) >= 1e-4 else f"{value:.1e}"


def scaled(value: float | None, unit: str = "") -> str:
    """4_730_000 -> '4.73 M'; with a unit, '9.46 MB' (decimal prefixes)."""
    if value is None:
        return UNKNOWN
    for limit, prefix in ((1e12, "T"), (1e9, "G" if unit else "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{NBSP}{prefix}{unit}"
    return f"{value:.3g}{NBSP}{unit}".rstrip()


def duration(seconds: float | None) -> str:
    """74.2 -> '1 min 14 s'."""
    if seconds is None:
        return UNKNOWN
    if seconds < 60:
        return f"{seconds:.1f}{NBSP}s" if seconds < 10 else f"{seconds:.0f}{NBSP}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}{NBSP}min {rest}{NBSP}s" if minutes < 60 else f"{minutes // 60}{NBSP}h {minutes % 60}{NBSP}min"


def times(ratio: float | None) -> str:
    """1.284 -> '1.28×'."""
    return UNKNOWN if ratio is None else f"{ratio:.2f}×"


def money(amount: float | None, currency: str) -> str:
    """0.0103, 'USD' -> '0.0103 USD'."""
    return UNKNOWN if amount is None else f"{quantity(amount)}{NBSP}{currency}"
