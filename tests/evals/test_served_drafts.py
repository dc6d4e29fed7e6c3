"""A pair in another runtime: who is timed when, what becomes of the counts, and what a killed measurement leaves."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, ClassVar

import pytest

import evals.served_drafts
from evals.draft_trials import Mismatch, TrialLog
from evals.served_drafts import COST_TOKENS, ServedPair
from evals.speculation import Costs
from evals.workers.serve import tried_of


class Clockwork:
    """A runtime whose steps take 4 seconds, a draft's 1, a prefill 3; the pair keeps two of three proposals a pass."""

    calls: ClassVar[list[tuple[str, int]]] = []
    wrong: ClassVar[set[int]] = set()

    def __init__(self, runtime: str, model: Path, options: dict[str, Any]) -> None:
        self.runtime, self.version = runtime, "1.0"
        self.role = "pair" if "draft" in options else model.name
        self.gamma = options.get("num_assistant_tokens", 0)

    def __enter__(self) -> Clockwork:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def timed(self, prompt: list[int], max_new_tokens: int, *, ignore_eos: bool = False) -> dict[str, Any]:
        self.calls.append((self.role, max_new_tokens))
        ids = [prompt[0] + i for i in range(max_new_tokens)]
        if self.role == "pair" and prompt[0] in self.wrong:
            ids[2] += 1
        passes = max_new_tokens // 3 if self.role == "pair" else 0
        step = {"pair": 2.0, "original": 4.0, "draft": 1.0}[self.role]
        return {
            "ids": ids, "seconds": 3 + step * (max_new_tokens - 1), "new_tokens": max_new_tokens,
            "kept": 2 * passes, "tried": 3 * passes, "passes": passes,
        }  # fmt: skip


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> ServedPair:
    monkeypatch.setattr(evals.served_drafts, "Worker", Clockwork)
    monkeypatch.setattr(Clockwork, "calls", [])
    monkeypatch.setattr(Clockwork, "wrong", set())
    return ServedPair("vllm", Path("original"), Path("draft"), {"dtype": "float32"})


def parting(number: int, plain: list[int], helped: list[int], length: int) -> Mismatch:
    at = next(i for i, (a, b) in enumerate(zip(plain, helped, strict=True)) if a != b)
    return Mismatch(number, at - length, 0.5)


def measured(pair: ServedPair, log: TrialLog, prompts: list[list[int]]) -> Any:
    options = {"costs": Costs(0.25), "max_new_tokens": 12, "ignore_eos": False, "logs": {"a": log}, "parting": parting}
    return pair.measure({"a": prompts}, {"a": 3}, **options)["a"]


def test_the_cost_is_that_of_a_step_without_the_prefill(pair: ServedPair) -> None:
    assert pair.cost([[1], [2], [3]]) == pytest.approx((0.25, 0.25, 0.25))
    roles = [role for role, tokens in pair._plain.calls if tokens == COST_TOKENS]
    assert roles == ["draft", "original", "original", "draft", "draft", "original", "original", "draft"]


def test_rounds_are_timed_with_two_pairs(pair: ServedPair) -> None:
    found = pair.costs([[1], [2]], 0.25)
    assert found.round(2) == pytest.approx(32 * 2 / 11 / 4)  # 32 tokens more are 11 passes more, 2 seconds a token
    assert found.draft == 0.25
    assert {role for role, _ in pair._plain.calls} == {"original", "pair"}


def test_every_prompt_goes_to_both_in_turn_and_the_figures_are_those_of_the_trials(pair: ServedPair) -> None:
    found = measured(pair, TrialLog(), [[10], [20], [30]])
    order = [role for role, tokens in pair._plain.calls if tokens == 12]
    assert order == ["original", "pair", "pair", "original", "original", "pair"]
    assert (found.identical, found.lossless, found.new_tokens) == (3, True, 36)
    assert found.speedup == pytest.approx((3 + 44) / (3 + 22))
    assert (found.acceptance_rate, found.tokens_per_pass, found.draft_cost) == (pytest.approx(2 / 3), 3.0, 0.25)
    assert found.original_share is None
    assert found.device == "cpu, vllm 1.0"


def test_an_output_that_differs_is_placed(pair: ServedPair) -> None:
    pair._plain.wrong.add(20)
    found = measured(pair, TrialLog(), [[10], [20], [30]])
    assert found.identical == 2
    assert not found.lossless
    assert [(m.prompt, m.position) for m in found.mismatches] == [(1, 2)]


def test_a_killed_measurement_goes_on(pair: ServedPair, tmp_path: Path) -> None:
    whole = measured(pair, TrialLog(tmp_path / "trials", 1), [[10], [20], [30]])
    pair._plain.calls.clear()
    again = measured(pair, TrialLog(tmp_path / "trials", 1), [[10], [20], [30]])
    assert not [role for role, tokens in pair._plain.calls if tokens == 12]
    assert again == whole


@pytest.mark.parametrize("acceptance", [0.3, 0.6, 0.9])
def test_what_was_tried_follows_from_the_mean_number_kept(acceptance: float) -> None:
    """Against a simulation of passes of four proposals, whose first rejections are counted."""
    drawn, kept, rejected, passes = random.Random(0), 0, 0, 20_000
    for _ in range(passes):
        count = 0
        while count < 4 and drawn.random() < acceptance:
            count += 1
        kept, rejected = kept + count, rejected + (count < 4)
    assert kept / tried_of(kept, passes, 4) == pytest.approx(kept / (kept + rejected), abs=0.01)
    assert tried_of(0, 7, 4) == 7
    assert tried_of(0, 0, 0) == 0
