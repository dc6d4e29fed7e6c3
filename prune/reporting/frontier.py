"""The frontier of `prune plan --sweep` on disk: JSON, one plan a depth, and a page that says what depth costs."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from evals.secrets import redacted
from prune.files import staged_directory, write_json
from prune.reporting import figures, tables
from prune.reporting.data import finite
from prune.reporting.page import model_name, write_sheet
from prune.reporting.panels import Panel
from prune.wording.numbers import UNKNOWN, quantity
from prune.wording.text import Text

if TYPE_CHECKING:
    from prune.planning.frontier import Frontier

Point = dict[str, Any]


def save_frontier(frontier: Frontier, directory: Path, lang: str = "en") -> None:
    """Write `frontier.json`, `frontier.html` and `plans/N.json`; the directory appears only when complete.

    Raises:
        UsageError: the directory is not empty, or `lang` is neither `en` nor `ja`.
    """
    found = redacted(frontier.describe())
    with staged_directory(directory) as staging:
        write_json(staging / "frontier.json", found)
        render_frontier_html(found, staging / "frontier.html", lang)
        for plan in frontier.plans:
            if plan.drop:
                plan.save(staging / "plans" / f"{len(plan.keep)}.json")


def render_frontier_html(found: dict[str, Any], path: Path, lang: str = "en") -> None:
    """Write the page of a sweep.

    Args:
        found: what `Frontier.describe` gives.

    Raises:
        UsageError: `lang` is neither `en` nor `ja`.
    """
    text, points = Text(lang), found["points"]
    unit = "nats" if found["measured"] else "cost"
    score = text(f"axis_frontier_{unit}", criterion=found["criterion"])
    figure = figures.cost_by_removed(points, found["num_layers"], score, text)
    caption = text("caption_frontier", criterion=found["criterion"], strategy=found["strategy"])
    panel = Panel("figure-frontier", text("title_frontier"), caption, figure, wide=True)
    records = {key: value for key, value in found.items() if key != "points"}
    write_sheet(
        path, text, title=model_name(found["source"]), kind=text("kind_frontier"),
        headline=_headline(found, unit, text), findings=_findings(found, text),
        next_step=_next_step(points), panels=[panel],
        legend=text("intervals_legend") if found["measured"] else "",
        shown=[(text("compare_table"), _table(points, score, text))],
        provenance=tables.pairs(finite(records)),
    )  # fmt: skip


def _middle(points: list[Point]) -> Point:
    """The depth half-way between the whole model and the shallowest."""
    return points[(len(points)) // 2] if len(points) > 2 else points[-1]


def _headline(found: dict[str, Any], unit: str, text: Text) -> str:
    points = found["points"]
    some, many = _middle(points), points[-1]
    return text(
        f"headline_frontier_{unit}", some=some["removed"], many=many["removed"], total=found["num_layers"],
        low=quantity(some["score"]["value"], 2), high=quantity(many["score"]["value"], 2), criterion=found["criterion"],
    )  # fmt: skip


def _findings(found: dict[str, Any], text: Text) -> list[str]:
    """Which domain pays most, which step is dear, whether the plans nest, and what the figures cannot say."""
    points, said = found["points"], []
    last = {name: score["value"] for name, score in points[-1]["by_domain"].items() if score}
    if found["measured"] and len(last) > 1:
        hard, easy = max(last, key=lambda name: last[name]), min(last, key=lambda name: last[name])
        ends = {"high": quantity(last[hard], 2), "low": quantity(last[easy], 2)}
        said.append(text("frontier_spread", layers=points[-1]["num_layers"], hard=hard, easy=easy, **ends))
    steps = {
        (one["num_layers"], other["num_layers"]): other["score"]["value"] - one["score"]["value"]
        for one, other in pairwise(points)
    }
    if len(steps) > 2:
        above, below = max(steps, key=lambda step: steps[step])
        rise, usual = quantity(steps[above, below], 2), quantity(median(steps.values()), 2)
        said.append(text("frontier_step", above=above, below=below, step=rise, median=usual))
    if all(set(one["drop"]) <= set(other["drop"]) for one, other in pairwise(points)):
        said.append(text("frontier_nested"))
    return [*said, text("frontier_limits")]


def _next_step(points: list[Point]) -> str:
    """The commands that follow a sweep."""
    return f"prune cut MODEL -o cut --plan SWEEP/plans/{_middle(points)['num_layers']}.json"


def _table(points: list[Point], score: str, text: Text) -> tables.Table:
    """One row a depth."""
    names = list(points[-1]["by_domain"])
    table = tables.Table([text("compare_layers"), text("frontier_dropped"), score, *map(text.name, names)])
    for point in points:
        scores = [point["score"], *(point["by_domain"].get(name) for name in names)]
        cells = [_cell(row, text) for row in scores]
        table.rows.append([str(point["num_layers"]), text.ranges(point["drop"]) or UNKNOWN, *cells])
    return table


def _cell(score: dict[str, float | None] | None, text: Text) -> str:
    """A score with its interval."""
    if score is None or score["lo"] is None or score["hi"] is None:
        return quantity(score["value"]) if score else UNKNOWN
    ends = f"{quantity(score['lo'])}–{quantity(score['hi'])}"
    return text("number_with_interval", value=quantity(score["value"]), interval=ends)
