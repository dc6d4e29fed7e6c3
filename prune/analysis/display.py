"""An analysis as people see it: a table for a terminal, a small page for a notebook.

Both show the same: what was measured on what, what to beware of, and the four figures of each layer that decide most.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

from evals.secrets import without_secrets
from evals.visible import visible
from prune.data.account import COLUMNS, account

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

HEADLINES = {
    "Block Influence": "block_influence",
    "contribution": "relative_contribution/layer",
    "cosine": "contribution_cosine/layer",
    "ΔNLL without it": "output_effect/dnll",
}
"""Title -> key of the figures that a first look shows, where they were measured."""


def headlines(measurements: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Title -> [L] figures of a first look."""
    return {title: measurements[key] for title, key in HEADLINES.items() if key in measurements}


def terminal(info: Mapping[str, Any], measurements: Mapping[str, np.ndarray]) -> str:
    """A few lines and a table; as long as pandas' own tables.

    Args:
        info, measurements: of an `Analysis`.
    """
    import pandas as pd

    rows, title = _data(info), _title(info, measurements)
    parts = [title, rows.to_string(index=False)] if len(rows) else [title]
    parts += [f"warning: {warning}" for warning in info.get("warnings", [])]
    table = _layers(info, measurements)
    if len(table.columns):
        parts.append(table.to_string(float_format=_short, max_rows=pd.get_option("display.max_rows")))
    return visible(without_secrets("\n\n".join(parts)))


def page(info: Mapping[str, Any], measurements: Mapping[str, np.ndarray]) -> str:
    """HTML without scripts or links; every name and value is escaped.

    Args:
        info, measurements: of an `Analysis`.
    """
    warnings = "".join(f"<li>{escape(warning)}</li>" for warning in info.get("warnings", []))
    parts = [f"<p><strong>{escape(_title(info, measurements))}</strong></p>"]
    if len(rows := _data(info)):
        parts.append(rows.to_html(index=False, border=0))
    if warnings:
        parts.append(f"<ul>{warnings}</ul>")
    if len((table := _layers(info, measurements)).columns):
        parts.append(table.to_html(float_format=_short, border=0))
    return visible(without_secrets(f"<div>{''.join(parts)}</div>"))


def _title(info: Mapping[str, Any], measurements: Mapping[str, np.ndarray]) -> str:
    keys = [key for key in measurements if not key.startswith("by_domain/") and not key.endswith((".lo", ".hi"))]
    measured = f"{len(keys)} measurements; .frame(), .array(KEY), .plot(NAME)" if keys else "nothing measured"
    return f"{info.get('model', 'model')}: {info['num_layers']} layers, {measured}"


def _data(info: Mapping[str, Any]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(account(info.get("data") or {}), columns=list(COLUMNS))


def _layers(info: Mapping[str, Any], measurements: Mapping[str, np.ndarray]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(headlines(measurements), index=pd.RangeIndex(info["num_layers"], name="layer"))


def _short(value: float) -> str:
    return f"{value:.4f}"
