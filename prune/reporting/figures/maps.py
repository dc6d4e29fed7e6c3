"""Figures with a value for each pair: blocks of layers, layer against layer, depth against depth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prune.reporting.data import AnalysisView
from prune.reporting.figures.style import SCALE, layout, literal, places
from prune.reporting.needs import needs
from prune.wording.text import Text

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from prune.analysis.depth_map import DepthMap


REVERSED = [[place, colour] for (place, _), (_, colour) in zip(SCALE, SCALE[::-1], strict=True)]
"""Dark where a figure is small."""


def _bar(title: str, tickformat: str = "") -> dict[str, Any]:
    """A colour bar that says what it shows."""
    return {
        "thickness": 10, "outlinewidth": 0, "len": 0.85, "tickformat": tickformat,
        "title": {"text": title, "side": "right", "font": {"size": 12}},
    }  # fmt: skip


def angular_triangle(view: AnalysisView, text: Text, kind: str = "last") -> go.Figure | None:
    """Angular distance of every block: x the first layer, y the number of layers; a dot marks each row's cheapest."""
    import plotly.graph_objects as go

    square = view.get(f"angular_distance/{kind}")
    if square is None:
        return None
    layers = view.num_layers
    z = [[square[i][i + n] if i + n <= layers else None for i in range(layers)] for n in range(1, layers + 1)]
    best = [min((v, i) for i, v in enumerate(row) if v is not None)[1] for row in z[:-1]]
    figure = go.Figure(
        go.Heatmap(
            z=z, x=list(range(layers)), y=list(range(1, layers + 1)), colorscale=SCALE, hoverongaps=False,
            xgap=1, ygap=1, colorbar=_bar(text("axis_angular"), ".2f"),
            hovertemplate=text("hover_triangle") + "<extra></extra>",
        )
    )  # fmt: skip
    figure.add_scatter(
        x=best, y=list(range(1, layers)), mode="markers", hoverinfo="skip", name=text("cheapest_block"),
        marker={"color": "var(--series-2)", "size": 7, "line": {"color": "var(--paper)", "width": 1}},
    )  # fmt: skip
    return layout(
        figure,
        text("axis_first_layer"),
        text("axis_block_size"),
        height=430,
        x=places(0, layers - 1),
        y=places(1, layers),
    )


def effect_map(view: AnalysisView, key: str, text: Text) -> go.Figure | None:
    """A [L, L] effect: row the skipped layer, column the layer it is felt in; blank on and below the diagonal."""
    import plotly.graph_objects as go

    square = view.get(key)
    if square is None:
        return None
    z = [[value if column > row else None for column, value in enumerate(line)] for row, line in enumerate(square)]
    figure = go.Figure(
        go.Heatmap(
            z=z, colorscale=SCALE, hoverongaps=False, xgap=1, ygap=1,
            colorbar=_bar(text("axis_effect")),
            hovertemplate=text("hover_effect") + "<extra></extra>",
        )
    )  # fmt: skip
    last = view.num_layers - 1
    x, y = places(0, last), places(0, last, reverse=True)
    return layout(figure, text("axis_affected"), text("axis_skipped"), height=430, x=x, y=y)


def domain_map(view: AnalysisView, text: Text) -> go.Figure | None:
    """What is left of each domain without each layer: a row a domain, a column a layer; first the whole model."""
    import plotly.graph_objects as go

    rows = [row for row in needs(view) if row.clean]  # where the whole model has nothing right, nothing can be lost
    if not rows:
        return None
    kinds = ["need_answers" if row.answers else "need_tokens" for row in rows]
    names = [
        literal(text("need_row", domain=row.domain or text("all_documents"), kind=text(kind)))
        for row, kind in zip(rows, kinds, strict=True)
    ]
    said = [[text.percent(row.clean), *(text.with_interval(*figures) for figures in row.with_ends())] for row in rows]
    left_out = [text("none"), *map(str, range(view.num_layers))]
    pointed = [[*zip([name] * len(line), left_out, line, strict=True)] for name, line in zip(names, said, strict=True)]
    figure = go.Figure(
        go.Heatmap(
            z=[[row.clean, *row.kept] for row in rows], x=list(range(-1, view.num_layers)), y=list(range(len(rows))),
            colorscale=REVERSED, zmin=0, zmax=1, xgap=1, ygap=2, customdata=pointed,
            colorbar=_bar(text("axis_left"), ".0%"),
            hovertemplate=text("hover_need") + "<extra></extra>",
        )
    )  # fmt: skip
    x = places(0, view.num_layers - 1)
    x |= {"tickvals": [-1, *x["tickvals"]], "ticktext": [left_out[0], *x["ticktext"]], "range": [-1.5, x["range"][1]]}
    y = {"tickvals": list(range(len(rows))), "ticktext": names, "autorange": "reversed"}
    return layout(figure, text("axis_layer_left_out"), "", height=150 + 44 * len(rows), x=x, y=y)


def depth_map(found: DepthMap, names: tuple[str, str], text: Text) -> go.Figure:
    """Held-out error of the best linear map: x the depth of the second model, y of the first; dots mark the best."""
    import plotly.graph_objects as go

    depths_a, depths_b = found.error.shape
    figure = go.Figure(
        go.Heatmap(
            z=found.error.tolist(), colorscale=REVERSED, hoverongaps=False, xgap=1, ygap=1,
            colorbar=_bar(text("axis_unexplained"), ".2f"),
            hovertemplate=text("hover_depth_map") + "<extra></extra>",
        )
    )  # fmt: skip
    figure.add_scatter(
        x=list(range(depths_b)), y=found.best.tolist(), mode="markers", hoverinfo="skip", name=text("best_depth"),
        marker={"color": "var(--series-2)", "size": 7, "line": {"color": "var(--paper)", "width": 1}},
    )  # fmt: skip
    figure.add_scatter(
        x=[0, depths_b - 1], y=[0, depths_a - 1], mode="lines", hoverinfo="skip", name=text("diagonal"),
        line={"color": "var(--ink-2)", "width": 1, "dash": "dash"},
    )  # fmt: skip
    axes = [text("axis_depth_in", name=literal(name)) for name in names]
    return layout(figure, axes[1], axes[0], height=430, x=places(0, depths_b - 1), y=places(0, depths_a - 1))
