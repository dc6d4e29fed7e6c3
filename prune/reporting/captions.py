"""Plain-language sentences computed from the data: what a figure shows, said so that it need not be read off.

Each function returns a finished sentence in the language of `text`, or an empty string when its data is absent.
Assumption: a sentence states only what its arrays say; thresholds are named constants below.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

import numpy as np

from evals.cost import Sensitivity
from prune.analysis.phases import sign_flip
from prune.reporting.data import AnalysisView, Candidate, ReportData, Stage
from prune.reporting.figures.layers import LOG_FLOOR, is_logarithmic, shown_score
from prune.reporting.needs import NEEDED, SPARE, Need, needs
from prune.reporting.tables import measure, scored
from prune.wording.numbers import money, quantity
from prune.wording.text import Text

QUIET = 0.75  # a layer is quiet below this share of the median relative contribution


def _name(candidate: Candidate, text: Text) -> str:
    return text("layers_stage", layers=candidate.num_layers, stage=text(f"stage_{candidate.stage}"))


def accuracy(data: ReportData, suite: str, text: Text) -> str:
    """The shallowest depth that passes, healed and not, or the best retention where none does."""
    original = data.original
    measured = [c for c in data.candidates if c.stage != "original" and suite in c.suites]
    if original is None or suite not in original.suites or not measured:
        return ""
    if all(c.suites[suite].verdict is None for c in measured):
        last = measured[-1]
        return text(
            "caption_accuracy_plain", total=original.num_layers, before=scored(original.suites[suite], text),
            candidate=_name(last, text), after=scored(last.suites[suite], text),
            measure=measure(last.suites[suite], text),
        )  # fmt: skip

    def shallowest(stage: Stage) -> int | None:
        passing = [c.num_layers for c in measured if c.stage == stage and c.suites[suite].verdict == "PASS"]
        return min(passing, default=None)

    healed, pruned = shallowest("healed"), shallowest("pruned")
    if healed is None and pruned is None:
        best = max(measured, key=lambda c: c.suites[suite].retained[0] or 0.0)
        return text(
            "caption_accuracy_none", total=original.num_layers, candidate=_name(best, text),
            retained=text.with_interval(*best.suites[suite].retained),
        )  # fmt: skip
    words = [text("none") if depth is None else depth for depth in (healed, pruned)]
    return text("caption_accuracy", healed=words[0], pruned=words[1])


def cost(data: ReportData, text: Text) -> str:
    """What the shown candidate gains in decode speed."""
    shown = data.shown
    if shown is None or shown.decode_speedup is None:
        return text("caption_cost_plain")
    return text("caption_cost", candidate=_name(shown, text), ratio=text.times(shown.decode_speedup))


def break_even(data: ReportData, text: Text) -> str:
    """Healing cost against the saving per million tokens."""
    shown, original, prices = data.shown, data.original, data.cost
    if shown is None or original is None or prices is None:
        return ""
    if original.cost_per_million_tokens is None or shown.cost_per_million_tokens is None:
        return ""
    return text(
        "caption_break_even", cost=money(prices.healing_cost, prices.currency),
        saved=money(original.cost_per_million_tokens - shown.cost_per_million_tokens, prices.currency),
        tokens=text.count(prices.break_even_tokens),
    )  # fmt: skip


def sensitivity(data: ReportData, text: Text) -> str:
    """Which assumption moves the break-even most."""
    if data.cost is None or not data.cost.sensitivity or not data.cost.break_even_tokens:
        return ""
    widest = max(data.cost.sensitivity, key=lambda row: _spread(row.at_low, row.at_high))
    said = text("caption_sensitivity", tokens=text.count(data.cost.break_even_tokens), widest=assumption(widest, text))
    if any(row.at_low is None or row.at_high is None for row in data.cost.sensitivity):
        return text("sentences", parts=[said, text("caption_sensitivity_never")])
    return said


def _spread(one: float | None, other: float | None) -> float:
    if one is None or other is None:
        return float("inf")
    return max(one, other) / max(min(one, other), 1.0)


def assumption(row: Sensitivity, text: Text) -> str:
    """'price of training 0.50× to 2.00×' in the report's language."""
    return text(f"sensitivity_{row.name}", low=text.times(row.low), high=text.times(row.high))


def _extremes(row: Sequence[float | None]) -> tuple[int, int]:
    """Indices of the smallest and the largest measured entry."""
    known = [(value, index) for index, value in enumerate(row) if value is not None]
    return min(known)[1], max(known)[1]


def contribution(view: AnalysisView, text: Text) -> str:
    """Which layers write little, and what leaving them out one at a time costs."""
    row = view.get("relative_contribution/layer")
    if row is None or all(value is None for value in row):
        return ""
    middle = median(value for value in row if value is not None)
    quietest, _ = _extremes(row)
    quiet = [layer for layer, value in enumerate(row) if value is not None and value < QUIET * middle]
    if not quiet:
        share = text.percent(row[quietest] / middle if middle else None, 0)
        return text("caption_even", quietest=quietest, share=share)
    one = "_one" if len(quiet) == 1 else ""
    sentence = text(f"caption_quiet{one}", layers=text.ranges(quiet), share=text.percent(QUIET, 0), quietest=quietest)
    losses = view.get("output_effect/dnll")
    if losses is None or any(losses[layer] is None for layer in quiet):
        return sentence
    dearest = quantity(max(losses[layer] for layer in quiet), 2)
    return text("sentences", parts=[sentence, text(f"caption_quiet_cheap{one}", dnll=dearest)])


def cosine(view: AnalysisView, text: Text) -> str:
    """Whether and where the layers turn from writing along the stream to erasing it, or back, for good."""
    row = view.get("contribution_cosine/layer")
    if row is None or any(value is None for value in row):
        return ""
    against = [value < 0 for value in row]
    if not any(against):
        return text("caption_cosine_along")
    if all(against):
        return text("caption_cosine_against")
    flip = sign_flip(np.asarray(row, dtype=float))
    if flip is None:
        return text("caption_cosine_mixed", count=sum(against), total=len(row))
    name = "caption_cosine_flip" if against[flip] else "caption_cosine_flip_back"
    return text(name, before=flip - 1, after=flip)


def triangle(view: AnalysisView, text: Text, size: int, kind: str = "last") -> str:
    """The most redundant block of `size` layers, against the average block of that size."""
    square = view.get(f"angular_distance/{kind}")
    if square is None or not 0 < size < view.num_layers:
        return ""
    row = [square[first][first + size] for first in range(view.num_layers - size + 1)]
    if any(value is None for value in row):
        return ""
    first, _ = _extremes(row)
    return text(
        "caption_triangle", size=size, layers=text.ranges(range(first, first + size)),
        distance=quantity(row[first], 2), mean=quantity(sum(row) / len(row), 2),
    )  # fmt: skip


def loss(view: AnalysisView, text: Text) -> str:
    """Cheapest and dearest layer to leave out, by domain, and how unequally two domains depend on depth."""
    key = "output_effect/dnll"
    series = {name: row for name in view.domains if (row := view.get(key, name)) is not None}
    if not series and (row := view.get(key)) is not None:
        series = {text("all_documents"): row}
    sentences, middles = [], {}
    for name, row in series.items():
        if all(value is None for value in row):
            continue
        low, high = _extremes(row)
        costs = {"low": quantity(row[low], 2), "high": quantity(row[high], 2)}
        sentences.append(text("caption_dnll", domain=name, cheapest=low, dearest=high, **costs))
        middles[name] = median(value for value in row if value is not None)
    if len(middles) > 1:
        easy, hard = min(middles, key=lambda n: middles[n]), max(middles, key=lambda n: middles[n])
        if middles[easy] > 0:
            ratio = text.times(middles[hard] / middles[easy])
            sentences.append(text("caption_dnll_ratio", ratio=ratio, hard=hard, easy=easy))
    losses = [value for row in series.values() for value in row if value is not None]
    if losses and min(losses) < LOG_FLOOR and is_logarithmic(losses):
        sentences.append(text("caption_dnll_floor", floor=quantity(LOG_FLOOR)))
    return text("sentences", parts=sentences)


def domain_needs(view: AnalysisView, text: Text) -> str:
    """Which layers each domain needs, and which it does not: 'math needs 11, 24 and 28; text does not need 25'."""
    return text("sentences", parts=[sentence for need in needs(view) for sentence in _needs(need, text)])


def _needs(need: Need, text: Text) -> list[str]:
    name, kind = need.domain or text("all_documents"), text("need_answers" if need.answers else "need_tokens")
    if need.clean == 0:
        return [text("caption_need_floor", domain=name)]
    left = [need.left(layer) for layer in range(len(need.kept))]
    needed = [layer for layer in range(len(need.kept)) if need.needs(layer)]
    spare = [layer for layer, share in enumerate(left) if share >= SPARE]
    least, most = _extremes(left)  # the dearest layer leaves least
    words = {"domain": name, "kind": kind}
    if needed:
        said = [text("caption_needed", layers=text.ranges(needed), share=text.percent(NEEDED, 0), **words)]
    else:
        said = [text("caption_none_needed", layer=least, share=text.percent(left[least], 0), **words)]
    if spare:
        said.append(text("caption_spare", layers=text.ranges(spare), share=text.percent(SPARE, 0), **words))
    else:
        said.append(text("caption_none_spare", layer=most, share=text.percent(left[most], 0), **words))
    return said


def extremes(view: AnalysisView, key: str, name: str, text: Text, show: Callable[[float], str] = quantity) -> str:
    """A sentence with the places `lowest` and `highest` of a one-dimensional measurement and the highest `value`."""
    row = view.get(key)
    if row is None or all(value is None for value in row):
        return ""
    low, high = _extremes(row)
    return text(name, lowest=low, highest=high, value=show(row[high]))


def lens(view: AnalysisView, text: Text) -> str:
    """The depth from which on less than half of the embedding's distance to the final prediction is left."""
    row = view.get("lens/kl")
    if row is None or any(value is None for value in row):
        return ""
    half = 1 + max((depth for depth, value in enumerate(row) if value > row[0] / 2), default=-1)
    return text("caption_lens", half=half)


def final(view: AnalysisView, text: Text) -> str:
    """What the embedding's share of the final stream is, and which layer's is the largest."""
    row = view.get("final_share")
    if row is None or any(value is None for value in row):
        return ""
    _, layer = _extremes(row[1:])
    return text(
        "caption_final", embedding=text.percent(row[0]), layer=layer, value=text.percent(row[1 + layer])
    )  # fmt: skip


def difficulty(view: AnalysisView, text: Text) -> str:
    """Whether harder documents use more depth, domain by domain."""
    said = []
    for name, rows in view.difficulty.items():
        key = shown_score(rows)
        if key is None:
            continue
        row = rows[key]
        verdict = text.known("adapts", row["verdict"])
        if row.get("shift") is None:
            said.append(text("caption_difficulty_unknown", domain=name, verdict=verdict))
            continue
        ends = {end: f"{row[f'shift_{end}']:+.2f}" for end in ("lo", "hi")}
        said.append(text("caption_difficulty", domain=name, verdict=verdict, shift=f"{row['shift']:+.2f}", **ends))
        if row["verdict"] == "cannot tell" and row.get("relevant_shift") is not None:
            said.append(text("caption_difficulty_margin", margin=quantity(row["relevant_shift"], 2)))
    return text("sentences", parts=said)


def effect(view: AnalysisView, key: str, name: str, text: Text) -> str:
    """Which skipped layer disturbs the later ones most and least (mean over the layers after it)."""
    square = view.get(key)
    if square is None:
        return ""
    means = []
    for row, line in enumerate(square[:-1]):
        later = [value for value in line[row + 1 :] if value is not None]
        means.append(sum(later) / len(later) if later else None)
    if all(value is None for value in means):
        return ""
    low, high = _extremes(means)
    return text(name, most=high, least=low)
