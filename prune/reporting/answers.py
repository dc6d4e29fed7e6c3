"""A manager's three questions, answered in a sentence each: what is saved, what is lost, when healing pays.

They fill the first screen of the page and the first lines of the Markdown. Every figure is read from `ReportData`; what
was not measured gives no sentence.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from prune.reporting.data import Candidate, Cost, ReportData, SuiteVerdict
from prune.wording.numbers import UNKNOWN, money
from prune.wording.text import Text

SHOWN_SUITES = 5
"""Task classes on the first screen; the others follow in the section of verdicts."""


@dataclass(frozen=True)
class Loss:
    """One task class on the first screen: what is lost there, how much may be, and what to do."""

    suite: str
    lost: str
    verdict: str
    advice: str
    limit: str = ""


@dataclass(frozen=True)
class Answer:
    """A question, its answer in a few words or one row a task class, the sentence behind it, and a remark."""

    question: str
    sentence: str
    value: str = ""
    losses: list[Loss] = field(default_factory=list)
    remark: str = ""


def headline(data: ReportData, text: Text) -> str:
    """The verdict in one or two sentences: what ships for which task classes, and which stay on the original."""
    if not data.verdicts:
        return text("headline_none")
    if data.exported is None:
        return text("headline_keep_all", total=data.total_layers)
    if len(data.verdicts) > 1 and all(row.evidence.verdict == "PASS" for row in data.verdicts):
        return text("headline_all", layers=data.exported.num_layers, total=data.total_layers)
    undecided = [row.suite for row in data.verdicts if row.evidence.verdict == "INCONCLUSIVE"]
    groups = {
        "headline_use": data.exported.passed,
        "headline_keep": [suite for suite in data.exported.refused if suite not in undecided],
        "headline_undecided": [suite for suite in data.exported.refused if suite in undecided],
    }
    said = [
        text(key, layers=data.exported.num_layers, total=data.total_layers, suites=_titles(data, suites, text))
        for key, suites in groups.items()
        if suites
    ]
    return text("sentences", parts=said)


def _titles(data: ReportData, suites: list[str], text: Text) -> list[str]:
    return [data.suite_title(suite, text) for suite in suites]


def answers(data: ReportData, text: Text) -> list[Answer]:
    """The questions that this report can answer, in a manager's order; none without a candidate to speak of."""
    shown, original = data.shown, data.original
    if shown is None or original is None or shown.stage == "original":
        return []
    found = [_saved(data, shown, original, text), _lost(data, text), _pays(data, shown, original, text)]
    return [answer for answer in found if answer is not None]


def _saved(data: ReportData, shown: Candidate, original: Candidate, text: Text) -> Answer | None:
    words, said = [], []
    if shown.parameters and original.parameters:
        words.append(text("save_value", share=1 - shown.parameters / original.parameters))
        said.append(text(
            "save_size", layers=shown.num_layers, total=original.num_layers, before=original.parameters,
            after=shown.parameters, before_bytes=original.bytes, after_bytes=shown.bytes,
        ))  # fmt: skip
    if shown.decode_speedup is not None:
        words.append(text("save_speed_value", ratio=shown.decode_speedup))
        speeds = {"before": original.decode_tokens_per_s, "after": shown.decode_tokens_per_s}
        said.append(text("save_speed", **speeds))
        if shown.decode_speedup_ends is not None:
            low, high = shown.decode_speedup_ends
            said.append(text("save_speed_range", low=low, high=high))
    before, after = original.cost_per_million_tokens, shown.cost_per_million_tokens
    if data.cost and before is not None and after is not None:
        currency = data.cost.currency
        said.append(text("save_money", before=money(before, currency), after=money(after, currency)))
    if not said:
        return None
    setting = data.cost.setting if data.cost else None
    remark = text("measured_at", setting=setting) if setting and shown.decode_speedup is not None else ""
    return Answer(text("save"), text("sentences", parts=said), text("list_comma").join(words), remark=remark)


def _lost(data: ReportData, text: Text) -> Answer | None:
    rows = [row for row in data.verdicts if row.evidence.retention is not None]
    if not rows:
        return None
    passed = [row for row in data.verdicts if row.evidence.verdict == "PASS"]
    others = [row for row in data.verdicts if row.evidence.verdict != "PASS"]
    said = []
    if passed:
        said.append(text("lose_passed", suites=[text.words(row.title) for row in passed]))
    if others:
        said.append(text("lose_refused", suites=[text.words(row.title) for row in others]))
    losses = [
        Loss(
            text.words(row.title), _loss(row, text), row.evidence.verdict,
            text.known("recommendation", row.recommendation) if row.recommendation else "",
            text("loss_limit", limit=1 - row.evidence.floor),
        )
        for row in rows[:SHOWN_SUITES]
    ]  # fmt: skip
    return Answer(text("lose"), text("sentences", parts=said), losses=losses, remark=text("lose_detail"))


def _loss(row: SuiteVerdict, text: Text) -> str:
    lost = 1 - (row.evidence.retention or 0.0)
    return text("nothing_lost") if lost < 0.0005 else f"−{text.percent(lost)}"


def _pays(data: ReportData, shown: Candidate, original: Candidate, text: Text) -> Answer | None:
    cost, question = data.cost, text("pays")
    if shown.stage != "healed":
        said = [text("pays_never_detail"), *_other_healing(data, text)]
        return Answer(question, text("sentences", parts=said), text("pays_never"))
    seconds = cost.healing_seconds if cost and cost.healing_seconds is not None else shown.heal_seconds
    if cost is None or cost.break_even_tokens is None:
        if seconds is None:
            return None
        if shown.decode_speedup is not None and shown.decode_speedup <= 1:
            return Answer(question, text("pays_slower_detail", time=seconds), text("pays_slower"))
        return Answer(question, text("pays_time_detail"), text("pays_time_value", time=seconds))
    said = [_spent(cost, seconds, text), _earned(cost, shown, original, text)]
    value = text("pays_value", tokens=cost.break_even_tokens)
    return Answer(question, text("sentences", parts=said), value, remark=text.words(cost.price_note))


def _other_healing(data: ReportData, text: Text) -> list[str]:
    """When healing would pay at a depth that was not exported: the healed candidate that fails the fewest suites."""

    def failed(candidate: Candidate) -> list[str]:
        return [suite for suite, score in candidate.suites.items() if score.verdict != "PASS"]

    healed = [c for c in data.candidates if c.stage == "healed" and c.break_even_tokens is not None]
    if not healed:
        return []
    best = min(healed, key=lambda c: (len(failed(c)), c.num_layers))
    refused = _titles(data, failed(best), text)
    figures = {"layers": best.num_layers, "tokens": best.break_even_tokens, "ratio": best.decode_speedup}
    if not refused:
        return [text("pays_other", **figures)]
    return [text("pays_other_refused", suites=refused, **figures)]


def _spent(cost: Cost, seconds: float | None, text: Text) -> str:
    paid = money(cost.healing_cost, cost.currency)
    if cost.planned_tokens:
        return text("pays_planned", tokens=cost.planned_tokens, cost=paid)
    return text("pays_time_only", time=seconds) if paid == UNKNOWN else text("pays_spent", time=seconds, cost=paid)


def _earned(cost: Cost, shown: Candidate, original: Candidate, text: Text) -> str:
    """What a million tokens costs less, and how long the break-even traffic keeps the machine busy."""
    before, after = original.cost_per_million_tokens, shown.cost_per_million_tokens
    speed = shown.decode_tokens_per_s
    busy = cost.break_even_tokens / speed if cost.break_even_tokens and speed else None
    if before is None or after is None:
        return text("pays_earned_time", ratio=text.times(shown.decode_speedup), busy=busy)
    return text("pays_earned", saved=money(before - after, cost.currency), busy=busy)
