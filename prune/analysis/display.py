"""An analysis as people see it: a table for a terminal, a small page for a notebook.

Both show the same: what was measured on what, what to beware of, and the four figures of each layer that decide most.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from prune.data.account import COLUMNS, account

if TYPE_CHECKING:
    import pandas as pd

    from prune.analysis.result import Analysis

HEADLINES = {
    "Block Influence": "block_influence",
    "contribution": "relative_contribution/layer",
    "cosine": "contribution_cosine/layer",
    "ΔNLL without it": "output_effect/dnll",
}
"""Title -> key of the figures that a first look shows, where they were measured."""


def headlines(analysis: Analysis) -> dict[str, Any]:
    """Title -> [L] figures of a first look."""
    return {title: analysis[key] for title, key in HEADLINES.items() if key in analysis}


def terminal(analysis: Analysis) -> str:
    """A few lines and a table; as long as pandas' own tables."""
    import pandas as pd

    rows = _data(analysis)
    parts = [_title(analysis), rows.to_string(index=False)] if len(rows) else [_title(analysis)]
    parts += [f"warning: {warning}" for warning in analysis.info.get("warnings", [])]
    table = _layers(analysis)
    if len(table.columns):
        parts.append(table.to_string(float_format=_short, max_rows=pd.get_option("display.max_rows")))
    return "\n\n".join(parts)


def page(analysis: Analysis) -> str:
    """HTML without scripts or links; every name and value is escaped."""
    warnings = "".join(f"<li>{escape(warning)}</li>" for warning in analysis.info.get("warnings", []))
    parts = [f"<p><strong>{escape(_title(analysis))}</strong></p>"]
    if len(rows := _data(analysis)):
        parts.append(rows.to_html(index=False, border=0))
    if warnings:
        parts.append(f"<ul>{warnings}</ul>")
    if len((table := _layers(analysis)).columns):
        parts.append(table.to_html(float_format=_short, border=0))
    return f"<div>{''.join(parts)}</div>"


def _title(analysis: Analysis) -> str:
    keys = [key for key in analysis if not key.startswith("by_domain/") and not key.endswith((".lo", ".hi"))]
    measured = f"{len(keys)} measurements; .frame(), .array(KEY), .plot(NAME)" if keys else "nothing measured"
    return f"{analysis.info.get('model', 'model')}: {analysis.num_layers} layers, {measured}"


def _data(analysis: Analysis) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(account(analysis.info.get("data") or {}), columns=list(COLUMNS))


def _layers(analysis: Analysis) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(headlines(analysis), index=pd.RangeIndex(analysis.num_layers, name="layer"))


def _short(value: float) -> str:
    return f"{value:.4f}"
