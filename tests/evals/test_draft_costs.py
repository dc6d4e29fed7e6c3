"""Costs of rounds, found again from the answers of a made-up machine whose costs are known."""

from __future__ import annotations

import random

import pytest

from evals.draft_costs import PROPOSED, Timing, measure_costs
from evals.speculation import Costs, expected_speedup, rounds

TRUE = Costs(draft=0.2, check=1.1, check_per_token=0.15, prefill=9.0, assisted_prefill=13.0)
STEP = 0.05


def plain(prompt, new_tokens):
    return Timing(STEP * (TRUE.prefill + new_tokens))


def machine(gamma: int, alpha: float, drawn: random.Random):
    """Rounds whose proposals are kept with a chance of alpha each, until there are tokens enough."""

    def answer(prompt, new_tokens):
        tokens = passes = 0
        while tokens < new_tokens:
            kept = 0
            while kept < gamma and drawn.random() < alpha:
                kept += 1
            tokens, passes = tokens + kept + 1, passes + 1
        return Timing(STEP * (TRUE.assisted_prefill + passes * TRUE.round(gamma)), passes)

    return answer


@pytest.mark.parametrize("alpha", [0.0, 0.8])
def test_costs_are_found_whatever_is_kept(alpha):
    drawn = random.Random(1)
    found = measure_costs(plain, {g: machine(g, alpha, drawn) for g in PROPOSED}, [[1], [2], [3]], TRUE.draft)
    for name, value in vars(TRUE).items():
        assert getattr(found, name) == pytest.approx(value), name


@pytest.mark.parametrize(("alpha", "gamma", "length"), [(0.9, 16, 128), (0.97, 16, 5), (0.3, 2, 1), (1.0, 4, 10)])
def test_rounds_are_those_of_the_machine(alpha, gamma, length):
    answer = machine(gamma, alpha, random.Random(3))
    seen = sum(answer([1], length).passes for _ in range(4000)) / 4000
    assert rounds(alpha, gamma, length) == pytest.approx(seen, rel=0.01)
    assert rounds(alpha, gamma, length + 0.5) == pytest.approx(
        (rounds(alpha, gamma, length) + rounds(alpha, gamma, length + 1)) / 2
    )


def test_short_answers_ask_for_fewer_proposals():
    assert TRUE.best_tokens(0.9, 3) < TRUE.best_tokens(0.9, 128)


@pytest.mark.parametrize(("alpha", "gamma"), [(0.5, 2), (0.8, 4)])
def test_the_speed_up_they_predict_is_that_of_the_machine(alpha, gamma):
    answer = machine(gamma, alpha, random.Random(2))
    seen = sum(answer([1], 128).seconds for _ in range(2000)) / 2000
    assert plain([1], 128).seconds / seen == pytest.approx(TRUE.speedup(alpha, gamma, 128), rel=0.005)
    assert sum(TRUE.shares(alpha, gamma, 128).values()) == pytest.approx(1)


def test_without_costs_of_their_own_they_are_the_papers():
    assert (
        Costs(0.2).speedup(0.8, 4)
        == expected_speedup(0.8, 4, 0.2)
        == pytest.approx(sum(0.8**k for k in range(5)) / 1.8)
    )


def test_dear_checks_ask_for_fewer_proposals():
    assert TRUE.best_tokens(0.8) < Costs(0.2).best_tokens(0.8)
    best = TRUE.best_tokens(0.8)
    assert TRUE.speedup(0.8, best) == max(TRUE.speedup(0.8, gamma) for gamma in range(1, 17))
