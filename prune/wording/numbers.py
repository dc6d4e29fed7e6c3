"""Numbers as a reader sees them, with their units; what is unknown is written as an en dash.

Shares and accuracies come as fractions (0..1) and are shown in per cent; counts and bytes get decimal prefixes.
"""

from __future__ import annotations

UNKNOWN = "–"
NBSP = "\N{NO-BREAK SPACE}"  # a figure and its unit stay on one line
COUNTS = {
    "en": ((1e12, f"{NBSP}T"), (1e9, f"{NBSP}B"), (1e6, f"{NBSP}M"), (1e3, f"{NBSP}k")),
    "ja": ((1e12, "兆"), (1e8, "億"), (1e4, "万")),
}
BYTES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def points(share: float, digits: int = 1) -> str:
    """0.9434 -> '94.3': per cent without the sign, for the first end of a range."""
    return f"{100 * share:.{digits}f}"


def quantity(value: float | None, digits: int = 3) -> str:
    """A plain number with `digits` significant digits and thousands separators."""
    if value is None:
        return UNKNOWN
    if value == 0 or abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:.{digits}g}" if abs(value) >= 1e-4 else f"{value:.1e}"


def count(value: float | None, lang: str) -> str:
    """4_730_000 -> '4.73 M', '473万'."""
    if value is None:
        return UNKNOWN
    for limit, prefix in COUNTS[lang]:
        if abs(value) >= limit:
            return f"{float(f'{value / limit:.3g}'):,.10g}{prefix}"
    return quantity(value)


def size(value: float | None) -> str:
    """9_460_000 -> '9.46 MB'."""
    if value is None:
        return UNKNOWN
    limit, prefix = next((row for row in BYTES if abs(value) >= row[0]), (1.0, "B"))
    return f"{value / limit:.3g}{NBSP}{prefix}"


def money(amount: float | None, currency: str) -> str:
    """0.0103, 'USD' -> '0.0103 USD'."""
    if amount is None:
        return UNKNOWN
    figure = f"{amount:#.3g}" if 1e-4 <= abs(amount) < 100 else quantity(amount)  # 0.220 beside 0.241
    return f"{figure}{NBSP}{currency}"
