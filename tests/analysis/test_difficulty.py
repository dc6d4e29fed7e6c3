"""Depth against difficulty: the score is the formula, and the verdicts are right on documents of known behaviour."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import linregress, spearmanr

from prune.analysis.difficulty import depth_scores, difficulty_report, relation
from prune.analysis.statistics import Records
from prune.data.domains import Document, Domain
from prune.wording.text import english

LAYERS = 16


def records_with(effects: np.ndarray, tokens: np.ndarray, key: str = "output_effect/kl") -> Records:
    records = Records(len(effects))
    records.add(key, list(range(len(effects))), effects * tokens[:, None], tokens)
    return records


def domain_with(difficulty) -> Domain:
    documents = tuple(Document((1, 2, 3), difficulty=value) for value in difficulty)
    return Domain("math", documents, "made.jsonl", "0")


def test_depth_score_is_the_effect_weighted_mean_layer():
    random = np.random.default_rng(0)
    effects, tokens = random.random((5, LAYERS)), random.integers(3, 40, 5).astype(float)
    naive = [sum(s * e for s, e in enumerate(row)) / sum(row) for row in effects.tolist()]
    np.testing.assert_allclose(depth_scores(records_with(effects, tokens), "output_effect/kl"), naive, rtol=1e-12)


def test_a_document_without_effects_has_no_score():
    effects = np.ones((2, LAYERS)) * [[0.0], [1.0]]
    scores = depth_scores(records_with(effects, np.ones(2)), "output_effect/kl")
    assert np.isnan(scores[0])
    assert scores[1] == (LAYERS - 1) / 2


@pytest.mark.parametrize(
    ("per_level", "noise", "count", "verdict"),
    [
        (0.5, 0.5, 200, "adapts"),
        (0.0, 0.3, 400, "does not adapt"),
        (-0.5, 0.5, 200, "does not adapt"),
        (0.0, 4.0, 20, "cannot tell"),
    ],
)
def test_verdicts_on_documents_of_known_behaviour(per_level, noise, count, verdict):
    random = np.random.default_rng(4)
    difficulty = random.integers(1, 6, count).astype(float)
    score = 8 + per_level * difficulty + noise * random.standard_normal(count)
    row = relation(difficulty, score, np.full(count, 9.0), LAYERS, 400, 0)
    assert row["verdict"] == verdict
    assert row["slope"] == pytest.approx(linregress(difficulty, score).slope)
    assert row["spearman"] == pytest.approx(spearmanr(difficulty, score).statistic)
    assert row["slope_lo"] <= row["slope"] <= row["slope_hi"]
    assert row["length_spearman"] is None


def test_documents_that_all_score_the_same_have_no_rank_correlation():
    row = relation(np.arange(20.0) % 4, np.full(20, 5.0), np.arange(20.0), LAYERS, 50, 0)
    assert (row["slope"], row["spearman"], row["spearman_lo"], row["verdict"]) == (0.0, None, None, "does not adapt")
    assert "ρ" not in row["sentence"]
    json.dumps(row, allow_nan=False)


def test_the_interval_of_the_slope_covers_the_truth():
    random = np.random.default_rng(5)
    covered = 0
    for trial in range(60):
        x = random.integers(1, 6, 60).astype(float)
        y = 8 + 0.3 * x + random.standard_normal(60)
        row = relation(x, y, np.ones(60), LAYERS, 300, trial)
        covered += row["slope_lo"] <= 0.3 <= row["slope_hi"]
    assert covered >= 51  # 95 % nominal; P(fewer | 0.95) < 0.1 %


def test_one_level_or_few_documents_cannot_tell():
    x = np.ones(50)
    assert "one level" in relation(x, x, x, LAYERS, 50, 0)["sentence"]
    few = np.arange(5.0)
    assert "only 5 documents" in relation(few, few, few, LAYERS, 50, 0)["sentence"]


def test_domains_without_difficulty_are_absent_and_grouped_ones_say_why():
    effects = np.random.default_rng(0).random((20, LAYERS))
    records = {"math": records_with(effects, np.ones(20))}
    report, arrays, _ = difficulty_report(records, {"math": domain_with([None] * 20)}, LAYERS, 50, 0)
    assert report == {}
    assert arrays == {}
    report, arrays, _ = difficulty_report(records, {"math": domain_with([1.0, 2.0] * 10)}, LAYERS, 50, 0)
    assert set(arrays) == {"by_domain/math/difficulty", "by_domain/math/depth_score/output_effect/kl"}
    assert report["math"]["output_effect/kl"]["documents"] == 20
    many = Records(600)
    many.add("output_effect/kl", list(range(600)), np.ones((600, LAYERS)), np.ones(600))
    report, _, warnings = difficulty_report({"math": many}, {"math": domain_with([1.0] * 600)}, LAYERS, 50, 0)
    assert "calib_num_samples 512" in report["math"]["reason"]
    assert [english(line) for line in warnings] == [
        f"math: depth was not set against difficulty: {report['math']['reason']}"
    ]
