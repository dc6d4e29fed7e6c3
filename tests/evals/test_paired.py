"""Paired statistics against naive loops, scipy and counts by hand."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest

from evals.errors import EvalError
from evals.paired import (
    Pairs,
    items_needed,
    pair,
    paired_test,
)
from evals.records import Record, TaskResult
from evals.retention import (
    MOST_LONGER,
    count_units,
    draws,
    longer_than_seen,
    retention,
    retention_interval,
    unit_mass,
    value_interval,
)


def pairs_of(original: Any, candidate: Any, **changes: Any) -> Pairs:
    original, candidate = np.asarray(original, float), np.asarray(candidate, float)
    fields: dict[str, Any] = {
        "name": "t",
        "weight": np.ones(len(original)),
        "aggregation": "mean",
        "higher_is_better": True,
        "chance": 0.0,
    }
    return Pairs(original=original, candidate=candidate, **fields | changes)


def result_of(scores: list[float], *, prompt: str = "p", first: int = 0, **changes: Any) -> TaskResult:
    records = [Record(first + i, f"d{first + i}", f"{prompt}{first + i}", s) for i, s in enumerate(scores)]
    return TaskResult(**{"task": "t", "metric": "acc", "filter": "none", "records": records, **changes})


def test_pairing_matches_items_whatever_their_order() -> None:
    original = result_of([1, 0, 1])
    candidate = result_of([0, 1, 1])
    candidate.records.reverse()
    pairs = pair(original, candidate, chance=0.25)
    assert pairs.original.tolist() == [1, 0, 1]
    assert pairs.candidate.tolist() == [0, 1, 1]
    assert pairs.chance == 0.25


@pytest.mark.parametrize(
    ("candidate", "message"),
    [
        (result_of([1, 1], prompt="q"), "the prompts differ"),
        (result_of([1, 1], first=1), "1 of the original's 2 items are not among the candidate's 2"),
        (result_of([1]), "1 of the original's 2 items"),
        (result_of([1, 1], metric="acc_norm"), "metric is 'acc' for the original and 'acc_norm'"),
        (result_of([1, 1], filter="strict"), "filter is"),
        (result_of([1, 1], higher_is_better=False), "higher_is_better is"),
        (TaskResult("t", "acc", "none", [Record(0, "d0", "p0", 1.0)] * 2), "an item appears twice"),
        (
            TaskResult("t", "acc", "none", [Record(i, f"d{i}", f"p{i}", 1.0, {"weight": 9}) for i in range(2)]),
            "count words or bytes differently",
        ),
    ],
)
def test_results_about_different_questions_are_refused(candidate: TaskResult, message: str) -> None:
    with pytest.raises(EvalError, match=message):
        pair(result_of([1, 0]), candidate)


def test_retention_is_the_mean_above_chance_over_the_mean_above_chance() -> None:
    original, candidate, chance = [0.8, 0.5], [0.6, 0.4], [0.25, 0.5]
    by_hand = ((0.6 - 0.25) + (0.4 - 0.5)) / ((0.8 - 0.25) + (0.5 - 0.5))
    found = retention(np.array(original), np.array(candidate), np.array(chance), True)
    assert float(found) == pytest.approx(by_hand, rel=1e-14)


def test_retention_of_bits_per_byte_is_the_inverse_growth_and_below_one_for_a_worse_model() -> None:
    assert float(retention(np.array([0.8]), np.array([1.0]), np.array([0.0]), False)) == pytest.approx(0.8)
    # With a level that means 'knows nothing' (8 bits a byte) it is the share of the way down from there.
    assert float(retention(np.array([2.0]), np.array([3.5]), np.array([8.0]), False)) == pytest.approx(0.75)


def test_nothing_is_retained_of_an_ability_that_is_not_there() -> None:
    assert math.isnan(retention(np.array([0.25]), np.array([0.5]), np.array([0.25]), True))
    assert math.isnan(retention(np.array([9.0]), np.array([9.0]), np.array([8.0]), False))


@pytest.mark.parametrize("end", [None, "lower", "upper"])
def test_the_bootstrap_equals_a_naive_dirichlet_loop(end: Any) -> None:
    """The module groups equal items into cells; a loop over single items must give the same distribution."""
    rng = np.random.default_rng(3)
    original, candidate = (rng.random((2, 40)) < [[0.7], [0.6]]).astype(float)
    (fast,) = draws([pairs_of(original, candidate)], np.random.default_rng(0), 20_000, end=end)
    items = [(float(a), float(b)) for a, b in zip(original, candidate, strict=True)]
    if end:
        items.append((1.0, 0.0) if end == "lower" else (0.0, 1.0))
    slow = []
    for _ in range(20_000):
        weights = rng.standard_exponential(len(items))
        total = math.fsum(weights)
        slow.append([math.fsum(w * item[k] for w, item in zip(weights, items, strict=True)) / total for k in (0, 1)])
    levels = [0.025, 0.25, 0.5, 0.75, 0.975]
    naive = np.array(slow).T
    assert np.quantile(fast, levels, axis=1) == pytest.approx(np.quantile(naive, levels, axis=1), abs=5e-3)
    # Paired: the difference is as narrow as the naive one, far narrower than for independent answers.
    assert np.std(fast[0] - fast[1]) == pytest.approx(np.std(naive[0] - naive[1]), rel=0.03)


def test_weights_and_logarithms_enter_as_lm_eval_defines_them() -> None:
    scores, weight = np.array([-10.0, -4.0]), np.array([10.0, 20.0])
    bits = pairs_of(scores, scores * 2, weight=weight, aggregation="bits_per_byte", higher_is_better=False)
    assert bits.values() == pytest.approx((14 / 30 / math.log(2), 28 / 30 / math.log(2)), rel=1e-14)
    words = pairs_of(scores, scores * 2, weight=weight, aggregation="perplexity", higher_is_better=False)
    assert words.values() == pytest.approx((math.exp(14 / 30), math.exp(28 / 30)), rel=1e-14)
    (ratio,) = draws([bits], np.random.default_rng(0), 50)
    assert ratio[1] == pytest.approx(2 * ratio[0], rel=1e-12)


def test_with_no_item_lost_the_lower_end_is_clopper_and_pearsons() -> None:
    from scipy.stats import binomtest

    interval = retention_interval([pairs_of([1] * 60, [1] * 60)], seed=0, bootstrap=40_000, alpha=0.05)
    exact = binomtest(60, 60).proportion_ci(0.95, method="exact").low
    assert interval.estimate == 1.0
    assert interval.ends(0.05)[0] == pytest.approx(exact, abs=3e-3)


@pytest.mark.parametrize("higher", [True, False])
def test_graded_scores_are_hurt_by_the_same_pseudo_item(higher: bool) -> None:
    scores = np.random.default_rng(0).uniform(0.3, 0.9, 30)
    pairs = pairs_of(scores, scores, higher_is_better=higher, chance=0.0 if higher else 1.0)
    low, high = retention_interval([pairs], seed=0, bootstrap=2000, alpha=0.05).ends(0.05)
    assert low < 0.95 < 1.0 < 1.02 < high


def test_few_unequal_documents_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    scores = -rng.uniform(0.5, 1.5, (2, 200))

    def mass(weight: np.ndarray) -> float:
        return unit_mass(pairs_of(*scores, weight=weight, aggregation="bits_per_byte", higher_is_better=False), 0.05)

    equal, unequal = np.ones(200), np.r_[np.full(5, 1e6), np.ones(195)]
    assert mass(equal) == pytest.approx(1, abs=0.05)
    # About five documents count: (t / z)^2 m / (m - 1) with t of four degrees of freedom.
    assert mass(unequal) == pytest.approx(1 / ((2.776 / 1.960) ** 2 * 5 / 4), rel=0.02)


def test_one_documents_likelihood_has_no_interval() -> None:
    alone = pairs_of([-3.0], [-4.0], aggregation="bits_per_byte", higher_is_better=False)
    interval = retention_interval([alone], seed=0, bootstrap=200, alpha=0.05)
    assert interval.estimate == pytest.approx(0.75)
    assert interval.ends(0.05) == (-math.inf, math.inf)


def test_suites_that_point_both_ways_are_refused() -> None:
    with pytest.raises(EvalError, match="two suites"):
        retention_interval(
            [pairs_of([1], [1]), pairs_of([1], [1], higher_is_better=False)], seed=0, bootstrap=200, alpha=0.05
        )


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (0, 5), (5, 0), (7, 2), (30, 31), (3, 15)])
def test_mcnemar_is_the_exact_binomial_test_on_the_discordant_items(lost: int, gained: int) -> None:
    from scipy.stats import binomtest

    original = [1] * lost + [0] * gained + [1] * 20 + [0] * 10
    candidate = [0] * lost + [1] * gained + [1] * 20 + [0] * 10
    found = paired_test(pairs_of(original, candidate))
    assert found is not None
    assert (found.lost, found.gained) == (lost, gained)
    total = lost + gained
    by_hand = min(1.0, 2 * sum(math.comb(total, k) for k in range(min(lost, gained) + 1)) / 2**total)
    assert found.p == pytest.approx(by_hand, rel=1e-12)
    if total:
        assert found.p == pytest.approx(binomtest(lost, total).pvalue, rel=1e-12)


def test_mcnemar_has_nothing_to_say_about_graded_scores() -> None:
    assert paired_test(pairs_of([0.5, 1], [1, 1])) is None


def test_a_values_interval_is_wilsons_for_right_or_wrong_answers() -> None:
    ours, theirs = value_interval(pairs_of([1] * 8 + [0] * 2, [1] * 5 + [0] * 5), seed=0, bootstrap=200, alpha=0.05)
    z, p, n = 1.959964, 0.8, 10
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert ours == pytest.approx(((centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)), rel=1e-5)
    assert theirs[0] == pytest.approx(1 - theirs[1], rel=1e-9)


def test_items_needed_follow_the_square_root_law() -> None:
    assert items_needed(100, 0.97, 0.93, 1.0, 0.95) == 400  # the side towards the floor must halve
    assert items_needed(100, 0.90, 0.8, 0.96, 0.95) == 145  # ceil(100 (0.06 / 0.05)^2), above the estimate
    assert items_needed(100, 0.95, 0.9, 1.0, 0.95) is None
    assert items_needed(100, 0.97, -math.inf, 1.0, 0.95) is None


def test_the_paired_test_over_clusters_equals_every_choice_of_signs() -> None:
    original = [1, 1, 1, 0, 1, 0, 1, 1, 1, 0]
    candidate = [0, 0, 1, 1, 0, 0, 0, 1, 0, 1]
    unit = np.array(list("aaabbccdde"))
    found = paired_test(pairs_of(original, candidate, unit=unit))
    assert found is not None
    differences = [
        sum(c - o for o, c, u in zip(original, candidate, unit, strict=True) if u == label) for label in "abcde"
    ]
    sums = [sum(s * d for s, d in zip(signs, differences, strict=True)) for signs in product((-1, 1), repeat=5)]
    assert found.p == pytest.approx(np.mean(np.abs(sums) >= abs(sum(differences))), rel=1e-12)
    assert (found.lost, found.gained) == (5, 2)


def test_items_that_share_one_outcome_count_as_their_clusters() -> None:
    """Three items each, all alike: interval, test and Clopper-Pearson bound are those of one item a cluster."""
    rng = np.random.default_rng(5)
    original, candidate = (rng.random((2, 80)) < [[0.7], [0.6]]).astype(float)
    single = pairs_of(original, candidate)
    tripled = pairs_of(np.repeat(original, 3), np.repeat(candidate, 3), unit=np.repeat(np.arange(80), 3))
    assert (tripled.n, tripled.units) == (240, 80)
    one, three = (retention_interval([p], seed=1, bootstrap=2000, alpha=0.05) for p in (single, tripled))
    assert three.ends(0.05) == pytest.approx(one.ends(0.05), rel=1e-9)
    first, second = paired_test(single), paired_test(tripled)
    assert first is not None
    assert second is not None
    assert second.p == pytest.approx(first.p, rel=1e-9)
    ignored = retention_interval(
        [pairs_of(np.repeat(original, 3), np.repeat(candidate, 3))], seed=1, bootstrap=2000, alpha=0.05
    )
    assert ignored.ends(0.05)[0] > three.ends(0.05)[0]


def test_the_cluster_bootstrap_equals_a_naive_loop_over_clusters() -> None:
    rng = np.random.default_rng(7)
    unit = rng.integers(0, 25, 120)
    original, candidate = rng.random((2, 120)).round(2)
    (fast,) = draws([pairs_of(original, candidate, unit=unit)], np.random.default_rng(0), 20_000)
    slow = []
    for _ in range(20_000):
        weight = rng.standard_exponential(25)[unit]  # one weight a cluster
        slow.append([(weight * x).sum() / weight.sum() for x in (original, candidate)])
    levels = [0.025, 0.25, 0.5, 0.75, 0.975]
    assert np.quantile(fast, levels, axis=1) == pytest.approx(np.quantile(slow, levels, axis=0), abs=5e-3)


def test_tasks_that_ask_the_same_questions_are_resampled_together() -> None:
    rng = np.random.default_rng(2)
    original, candidate = (rng.random((2, 200)) < [[0.7], [0.65]]).astype(float)
    unit = np.array([f"q{i}" for i in range(200)])
    once = pairs_of(original, candidate, unit=unit)
    assert count_units([once, once]) == 200
    assert count_units([once, pairs_of(original, candidate)]) == 400

    def ends(*tasks: Pairs) -> tuple[float, float]:
        return retention_interval(list(tasks), seed=0, bootstrap=4000, alpha=0.05).ends(0.05)

    assert ends(once, once) == pytest.approx(ends(once), abs=0.01)
    low, high = ends(pairs_of(original, candidate), pairs_of(original, candidate))
    alone = ends(once)
    assert high - low == pytest.approx((alone[1] - alone[0]) / math.sqrt(2), rel=0.1)


def test_the_pseudo_unit_stands_whole_where_it_hurts_most() -> None:
    """Nothing is lost anywhere; yet among ten items up to 31 % may be (Clopper and Pearson), a quarter of it the
    suite's. Splitting the pseudo-unit over the tasks would say 16 %."""
    from scipy.stats import binomtest

    small, large = pairs_of([1] * 10, [1] * 10), pairs_of([1] * 5000, [1] * 5000)
    low, _ = retention_interval([small, large, large, large], seed=0, bootstrap=20_000, alpha=0.05).ends(0.05)
    lost = 1 - binomtest(10, 10).proportion_ci(0.95, method="exact").low
    assert low == pytest.approx(1 - lost / 4, abs=4e-3)


def test_few_texts_may_hide_one_of_which_the_candidate_knows_nothing() -> None:
    """Fifty texts of two bits a byte, all unharmed: another kind, eight bits a byte, may be as frequent as
    Clopper and Pearson's bound says. Student's t widens it a little."""
    from scipy.stats import binomtest

    nats = np.full(50, -200 * math.log(2))
    texts = pairs_of(nats, nats, weight=np.full(50, 100.0), aggregation="bits_per_byte", higher_is_better=False)
    low, high = retention_interval([texts], seed=0, bootstrap=20_000, alpha=0.05).ends(0.05)
    unseen = 1 - binomtest(50, 50).proportion_ci(0.95, method="exact").low
    expected = 2 / (2 + unseen * (8 - 2))
    assert expected - 0.02 < low < expected
    assert 1 / expected < high < 1 / (expected - 0.02)


def test_texts_longer_than_all_seen_have_the_mean_of_a_pareto_tail() -> None:
    lengths = 50 * np.random.default_rng(0).random(4000) ** (-1 / 2.0)  # index 2: the mean above x is 2 x
    assert longer_than_seen(lengths) / lengths.max() == pytest.approx(2.0, rel=0.25)
    assert longer_than_seen(np.full(300, 7.0)) == 7.0
    assert longer_than_seen(np.array([3.0])) == 3.0
    endless = 50 * np.random.default_rng(0).random(4000) ** (-1 / 0.7)  # no mean
    assert longer_than_seen(endless) == pytest.approx(MOST_LONGER * endless.max())
