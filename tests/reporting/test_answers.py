"""The first screen: what ships, what is saved, what is lost, when healing pays."""

from __future__ import annotations

import pytest

from prune.reporting.answers import answers, headline
from prune.reporting.data import ReportData
from prune.wording.text import Text

from .sample import sample_report

EN, JA = Text(), Text("ja")


def said(data: ReportData, text: Text = EN) -> dict[str, str]:
    """Question -> everything that stands under it."""
    return {
        a.question: " ".join([a.value, *(f"{x.suite} {x.lost} {x.advice}" for x in a.losses), a.sentence, a.remark])
        .replace("\N{NO-BREAK SPACE}", " ").strip()
        for a in answers(data, text)
    }  # fmt: skip


def test_the_headline_names_what_ships_and_what_stays() -> None:
    data = sample_report()
    assert headline(data, EN) == "Use 12 of 16 layers for Stories. Keep all 16 layers for Arithmetic."
    assert headline(data, JA) == "物語には、16層中12層のモデルを使えます。計算には、元の16層が必要です。"
    data.verdicts[1].evidence.verdict = "INCONCLUSIVE"
    assert "For Arithmetic too few items were tested" in headline(data, EN)
    data.exported = None
    assert headline(data, EN).startswith("Keep all 16 layers")
    data.verdicts = []
    assert headline(data, EN) == "Nothing was judged; nothing may ship."


def test_three_questions_are_answered_with_the_reports_figures() -> None:
    found = said(sample_report())
    assert list(found) == ["What do I save?", "What do I lose?", "When does healing pay?"]
    saved, lost, pays = found.values()
    assert saved.startswith("19 % smaller, 1.28× as fast 12 of 16 layers stay: 3.81 M instead of 4.73 M parameters")
    assert "A million tokens cost 0.266 USD instead of 0.340 USD." in saved
    assert "Stories −1.1 % Use shallow Arithmetic −68.5 % Shallow as draft" in lost
    assert pays.startswith("after 138 k tokens The training after the cut took 1 min 14 s and cost 0.0103 USD.")
    assert "costs 0.0735 USD less, so it has paid for itself after 4 min 24 s of serving" in pays
    assert pays.endswith("example price, not a quotation")


def test_the_same_figures_stand_in_japanese() -> None:
    saved, lost, pays = said(sample_report(), JA).values()
    assert saved.startswith("容量19%減、速度1.28倍")
    assert "物語 −1.1%" in lost
    assert pays.startswith("13.8万トークン以降")
    assert "フル稼働で4分24秒使えば元が取れます" in pays
    assert pays.endswith("単価は例で、見積もりではありません")


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ({"stage": "pruned"}, "nothing to pay back"),
        ({"cost": None}, "1 min 14 s of healing"),
        ({"cost": None, "speedup": 0.97}, "never"),
    ],
)
def test_where_healing_cannot_pay_the_answer_says_so(change: dict, value: str) -> None:
    data = sample_report()
    assert data.exported is not None
    if "stage" in change:
        data.exported.stage = change["stage"]
    if "cost" in change:
        data.cost = change["cost"]
    assert data.shown is not None
    data.shown.decode_speedup = change.get("speedup", data.shown.decode_speedup)
    assert said(data)["When does healing pay?"].startswith(value)


def test_nothing_measured_gives_no_answer() -> None:
    assert answers(ReportData(title="m", ship="FAIL"), EN) == []
