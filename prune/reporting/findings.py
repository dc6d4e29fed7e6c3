"""What an analysis found, in a few sentences at the top of its page, each written from the figures.

Which layers are dear and cheap to leave out, by domain; where the stream's width is spent; from where on the answer can
be read. Thresholds are named constants; a measurement that was not made gives no sentence.
"""

from __future__ import annotations

from statistics import median

from prune.reporting.captions import contribution
from prune.reporting.data import AnalysisView
from prune.wording.numbers import quantity
from prune.wording.text import Text

DEAR = 2.0
"""A layer is dear where leaving it out costs more than so many times the median layer."""
CHEAP = 0.6
"""And cheap at no more than this share of it."""
NARROW = 2.0
"""Participation ratio below which one direction holds nearly all of the stream's variance."""
HALF = 0.5

LOSS, WIDTH, LENS = "output_effect/dnll", "width/participation_ratio", "lens/kl"


def dear_and_cheap(row: list[float]) -> tuple[list[int], list[int]]:
    """Layers whose loss lies far above and far below that of the median layer."""
    middle = median(row)
    dear = [layer for layer, loss in enumerate(row) if loss > DEAR * middle]
    return dear, [layer for layer, loss in enumerate(row) if loss <= CHEAP * middle]


def headline(view: AnalysisView, text: Text) -> str:
    """Which layers carry most and which are cheap; without losses, which write little."""
    row = _row(view, LOSS)
    if row is None:
        return contribution(view, text) or text("analysis_report")
    return _dear_and_cheap(row, text)


def findings(view: AnalysisView, text: Text) -> list[str]:
    """By domain where there are several, then width and lens."""
    said = []
    domains = [name for name in view.domains if _row(view, LOSS, name) is not None]
    for name in domains if len(domains) > 1 else []:
        row = _row(view, LOSS, name) or []
        loss = quantity(median(row), 2)
        said.append(text("finding_domain", domain=name, found=_dear_and_cheap(row, text), loss=loss))
    if _row(view, LOSS) is not None:
        said.append(text("finding_legend", dear=quantity(DEAR, 1), cheap=CHEAP))
    return [*said, *_width(view, text), *_lens(view, text)]


def layers_to_go(view: AnalysisView) -> int:
    """How many layers are cheap, at least one: where a first plan may begin."""
    row = _row(view, LOSS)
    return max(1, len(dear_and_cheap(row)[1])) if row else max(1, view.num_layers // 8)


def _row(view: AnalysisView, key: str, domain: str | None = None) -> list[float] | None:
    row = view.get(key, domain)
    return None if row is None or any(value is None for value in row) else row


def _dear_and_cheap(row: list[float], text: Text) -> str:
    dear, cheap = dear_and_cheap(row)
    key = "both" if dear and cheap else "dear" if dear else "cheap" if cheap else "even"
    return text(f"finding_{key}", dear=dear, cheap=cheap)


def _width(view: AnalysisView, text: Text) -> list[str]:
    """Where most directions are in use, and where one holds nearly all of the variance."""
    row = _row(view, WIDTH)
    if row is None:
        return []
    widest = max(range(len(row)), key=lambda depth: row[depth])
    narrow = [depth for depth, value in enumerate(row) if value < NARROW]
    said = [text("finding_widest", depth=widest, value=quantity(row[widest]))]
    if narrow:
        said.append(text("finding_narrow", depths=narrow))
    return [text("sentences", parts=said)]


def _lens(view: AnalysisView, text: Text) -> list[str]:
    """The depth from which on less than half of the embedding's distance to the final prediction is left."""
    row = _row(view, LENS)
    if row is None:
        return []
    turn = 1 + max((depth for depth, value in enumerate(row) if value > HALF * row[0]), default=-1)
    return [text("finding_lens", depth=turn, share=turn / (len(row) - 1))]
