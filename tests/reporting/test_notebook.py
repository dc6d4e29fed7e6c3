"""Figures that stand by themselves, by name or by key."""

from __future__ import annotations

import re

import numpy as np
import pytest

from prune.api._analysis import Analysis
from prune.errors import PruneError, UsageError
from prune.reporting.notebook import FIGURES
from tests.reporting.sample import LAYERS, sample_analysis


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    made = sample_analysis()
    return Analysis(made.info, made.measurements)


def test_a_figure_shows_the_measurement_and_needs_no_page(analysis):
    figure = analysis.plot("relative_contribution")
    drawn = next(trace for trace in figure.data if trace.type == "bar")
    np.testing.assert_allclose(list(drawn.y), analysis["relative_contribution/attn"], rtol=1e-5)
    assert "var(" not in figure.to_json()
    assert re.fullmatch(r"#[0-9a-f]{6}", drawn.marker.color)


def test_every_key_with_one_figure_a_layer_a_depth_or_a_pair_has_a_figure(analysis):
    tried = 0
    for key in analysis:
        if key.endswith((".lo", ".hi")) or key.startswith("by_domain/"):
            continue
        array = analysis.array(key)
        if array.dims in {("layer",), ("depth",), ("writer",), ("skipped", "affected")}:
            trace = analysis.plot(key).data[-1]
            assert len(trace.y if trace.y is not None else trace.z) in range(LAYERS - 1, LAYERS + 2), key
            tried += 1
    assert tried > 5


def test_a_domain_s_figure_shows_its_own_documents(analysis):
    name = analysis.domains[0]
    figure = analysis.plot("block_influence", domain=name)
    np.testing.assert_allclose(list(figure.data[-1].y), analysis.of_domain("block_influence", name), rtol=1e-5)
    assert list(figure.data[-1].y) != list(analysis.plot("block_influence").data[-1].y)
    assert [trace.name for trace in analysis.plot("loss_without_layer", domain=name).data] == [name]


def test_an_unknown_name_is_told_from_what_was_not_measured(analysis):
    with pytest.raises(UsageError, match=r"unknown figure 'relative_contributions' \(did you mean"):
        analysis.plot("relative_contributions")
    with pytest.raises(UsageError, match="unknown domain"):
        analysis.plot("block_influence", domain="nowhere")
    empty = Analysis({"num_layers": 4}, {})
    for name in FIGURES:
        with pytest.raises(PruneError, match="not measured"):
            empty.plot(name)


def test_words_of_a_figure_follow_the_language(analysis):
    titles = {lang: analysis.plot("relative_contribution", lang=lang).layout.xaxis.title.text for lang in ("en", "ja")}
    assert titles["en"] == "layer"
    assert titles["ja"] != "layer"
