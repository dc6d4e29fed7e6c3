"""The same figures as PNG files, for slides and papers.

Draws what the Plotly objects of `figures` hold (bars, lines, bands, markers, heat maps, shaded ranges) with matplotlib,
so a figure is defined once. Assumptions: light colours (the first `:root` of style.css); only the trace kinds that
`figures` uses; an unknown kind is an error, never a blank picture.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prune.reporting.data import AnalysisView
from prune.reporting.palette import palette
from prune.reporting.panels import Panel, analysis_panels
from prune.wording.text import Text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from plotly.graph_objects import Figure

    from prune.analysis.result import Analysis

INCHES = (8.0, 4.2)
DOTS_PER_INCH = 150
DASHES = {"solid": "-", "dot": ":", "dash": "--", None: "-"}
MARKERS = {"circle": "o", "circle-open": "o", "square": "s", "diamond": "D", "x": "x", None: "o"}


def write_pngs(panels: Sequence[Panel], directory: Path) -> list[Path]:
    """One `IDENTIFIER.png` a panel, with its title.

    Args:
        panels: figures with their words.
        directory: created when missing.
    """
    directory.mkdir(parents=True, exist_ok=True)
    return [_write(panel.figure, panel.title, directory / f"{panel.identifier}.png") for panel in panels]


def write_analysis_pngs(analysis: Analysis, directory: Path, lang: str = "en") -> list[Path]:
    """The figures of `prune analyze`, one file each."""
    return write_pngs(analysis_panels(AnalysisView.from_analysis(analysis), Text(lang)), directory)


def _write(figure: Figure, title: str, path: Path) -> Path:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=INCHES, dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(canvas)
    axes = canvas.add_subplot()
    draw(figure, axes)
    axes.set_title(title, loc="left", fontsize=11)
    canvas.savefig(path)
    return path


def draw(figure: Figure, axes: Axes) -> None:
    """Draw a Plotly figure on matplotlib axes.

    Raises:
        ValueError: a trace of a kind that is not known here.
    """
    bars = [trace for trace in figure.data if trace.type == "bar"]
    for shape in figure.layout.shapes:
        _shape(shape, axes)
    for trace in figure.data:
        if trace.type == "bar":
            _bar(trace, axes, bars.index(trace), len(bars))
        elif trace.type == "heatmap":
            _heatmap(trace, axes)
        elif trace.type == "scatter":
            _scatter(trace, axes)
        else:
            raise ValueError(f"no drawing for traces of type {trace.type!r}")
    _axes(figure, axes)


def colour(name: str | None) -> Any:
    """A CSS variable or colour as matplotlib takes it; None stays None."""
    if name is None:
        return None
    if match := re.fullmatch(r"var\(--([\w-]+)\)", name):
        name = palette()[match[1]]
    if match := re.fullmatch(r"rgba\((.*)\)", name):
        red, green, blue, alpha = map(float, match[1].split(","))
        return red / 255, green / 255, blue / 255, alpha
    return name


def _label(name: str | None) -> str | None:
    """A name as matplotlib shows it literally: it would hide what starts with _ and read what is between $ as TeX."""
    if not name:
        return None
    shown = html.unescape(name).replace("$", r"\$")
    return f"\u200a{shown}" if shown.startswith("_") else shown


def _numbers(values: Any) -> np.ndarray:
    return np.array([np.nan if v is None else v for v in values], dtype=float)


def _errors(trace: Any, axes: Axes, x: np.ndarray, y: np.ndarray) -> None:
    if trace.error_y.array is not None:
        below, above = _numbers(trace.error_y.arrayminus), _numbers(trace.error_y.array)
        ends = np.nan_to_num(np.stack([below, above]))
        axes.errorbar(x, y, ends, fmt="none", ecolor=colour(trace.error_y.color), elinewidth=1, capsize=2)


def _bar(trace: Any, axes: Axes, number: int, count: int) -> None:
    width = 0.72 / count
    x = _numbers(trace.x) + (number - (count - 1) / 2) * width
    axes.bar(x, _numbers(trace.y), width, color=colour(trace.marker.color), label=_label(trace.name))
    _errors(trace, axes, x, _numbers(trace.y))


def _scatter(trace: Any, axes: Axes) -> None:
    x, y = _numbers(trace.x), _numbers(trace.y)
    if trace.fill == "toself":
        axes.fill(x, y, color=colour(trace.fillcolor), linewidth=0)
        return
    mode = trace.mode or "lines"
    line, shade = "lines" in mode, colour(trace.line.color or trace.marker.color)
    is_open = (trace.marker.symbol or "").endswith("-open")
    axes.plot(
        x, y, color=shade, label=_label(trace.name), linewidth=trace.line.width or 1.5,
        linestyle=DASHES[trace.line.dash] if line else "none",
        marker=MARKERS[trace.marker.symbol] if "markers" in mode else None,
        markersize=0.7 * (trace.marker.size or 6), markerfacecolor="white" if is_open else shade,
    )  # fmt: skip
    _errors(trace, axes, x, y)


def _heatmap(trace: Any, axes: Axes) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    grid = np.array([_numbers(row) for row in trace.z])
    scale = LinearSegmentedColormap.from_list("report", [(at, colour(name)) for at, name in trace.colorscale])
    x = np.arange(grid.shape[1]) if trace.x is None else _numbers(trace.x)
    y = np.arange(grid.shape[0]) if trace.y is None else _numbers(trace.y)
    lines = {"edgecolors": "white", "linewidth": 0.3}
    mesh = axes.pcolormesh(x, y, np.ma.masked_invalid(grid), cmap=scale, vmin=trace.zmin, vmax=trace.zmax, **lines)
    axes.figure.colorbar(mesh, ax=axes, label=_label(trace.colorbar.title.text) or "")


def _shape(shape: Any, axes: Axes) -> None:
    line = {"color": colour(shape.line.color), "linewidth": shape.line.width, "linestyle": DASHES[shape.line.dash]}
    if shape.type == "rect":
        axes.axvspan(shape.x0, shape.x1, color=colour(shape.fillcolor), linewidth=0)
    elif shape.x0 == shape.x1:
        axes.axvline(shape.x0, **line)
    else:
        axes.axhline(shape.y0, **line)


def _axes(figure: Figure, axes: Axes) -> None:
    for axis, label, scale, invert, ticks, limits in (
        (figure.layout.xaxis, axes.set_xlabel, axes.set_xscale, axes.invert_xaxis, axes.set_xticks, axes.set_xlim),
        (figure.layout.yaxis, axes.set_ylabel, axes.set_yscale, axes.invert_yaxis, axes.set_yticks, axes.set_ylim),
    ):
        label(axis.title.text or "")
        if axis.tickvals is not None:
            ticks(list(axis.tickvals), [_label(str(name)) for name in axis.ticktext or axis.tickvals])
        if axis.type == "log":
            scale("log")
        if axis.autorange == "reversed":
            invert()
        elif axis.range is not None and axis.type != "log":
            limits(*axis.range)
    if figure.layout.yaxis.rangemode == "tozero":
        axes.set_ylim(bottom=0)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if sum(bool(trace.name) for trace in figure.data) > 1:
        axes.legend(frameon=False, fontsize=9)
