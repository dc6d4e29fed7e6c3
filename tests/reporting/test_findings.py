"""Findings say what the figures say: those of SmolLM2-135M-Instruct (30 layers), from `scripts/real_study.py`."""

from __future__ import annotations

import itertools

import pytest

from prune.reporting.data import AnalysisView
from prune.reporting.figures import loss_without_layer
from prune.reporting.figures.style import places
from prune.reporting.findings import dear_and_cheap, findings, headline, layers_to_go
from prune.reporting.tables import phase_lines
from prune.wording.text import Text

TEXT = Text()
SMOLLM2 = {
    "output_effect/dnll": [
        8.92,
        3.43,
        0.985,
        0.194,
        0.164,
        0.17,
        0.23,
        0.194,
        0.637,
        0.272,
        0.28,
        2.03,
        0.156,
        0.147,
        0.144,
        0.306,
        0.264,
        0.179,
        0.259,
        0.224,
        0.397,
        0.246,
        0.265,
        0.495,
        0.665,
        0.154,
        0.155,
        0.228,
        1.06,
        2.68,
    ],
    "by_domain/math/output_effect/dnll": [
        7.82,
        3.18,
        0.517,
        0.224,
        0.128,
        0.232,
        0.232,
        0.279,
        0.695,
        0.229,
        0.217,
        1.52,
        0.262,
        0.192,
        0.22,
        0.457,
        0.464,
        0.303,
        0.362,
        0.374,
        0.536,
        0.28,
        0.321,
        0.478,
        0.505,
        0.0951,
        0.104,
        0.0976,
        0.719,
        1.99,
    ],
    "by_domain/text/output_effect/dnll": [
        7.9,
        3.45,
        0.69,
        0.0936,
        0.122,
        0.14,
        0.203,
        0.117,
        0.517,
        0.164,
        0.299,
        1.86,
        0.0971,
        0.109,
        0.109,
        0.229,
        0.208,
        0.139,
        0.258,
        0.219,
        0.379,
        0.224,
        0.223,
        0.375,
        0.692,
        0.157,
        0.15,
        0.243,
        1.31,
        2.29,
    ],
    "width/participation_ratio": [
        13.6,
        49.4,
        33.8,
        1.99,
        2.23,
        2.53,
        2.75,
        3.08,
        3.52,
        5.62,
        38.9,
        64.5,
        1.2,
        1.21,
        1.21,
        1.21,
        1.21,
        1.21,
        1.21,
        1.21,
        1.21,
        1.22,
        1.22,
        1.23,
        1.25,
        1.25,
        1.26,
        1.28,
        1.31,
        2.22,
        9.27,
    ],
    "lens/kl": [
        14.2,
        10.3,
        7.74,
        7.76,
        7.95,
        7.96,
        8.03,
        7.97,
        7.72,
        7.61,
        7.67,
        7.56,
        7.53,
        7.49,
        7.49,
        7.25,
        7.16,
        7.19,
        7.15,
        6.8,
        6.47,
        5.84,
        5.67,
        5.16,
        4.6,
        3.97,
        3.68,
        3.27,
        2.9,
        2.85,
        0,
    ],
}


@pytest.fixture
def view() -> AnalysisView:
    return AnalysisView(num_layers=30, domains=["math", "text"], arrays=SMOLLM2)


def test_the_headline_names_the_layers_that_carry_most_and_the_cheap_ones(view):
    assert headline(view, TEXT) == "Layers 0–2, 8, 11, 24, 28–29 carry most; 12–14, 25–26 are cheap."


def test_every_domain_has_its_own_layers(view):
    math, text = findings(view, TEXT)[:2]
    assert math == (
        "math: Layers 0–1, 8, 11, 28–29 carry most; 4, 25–27 are cheap. The median layer adds 0.31 nats per token."
    )
    assert text.startswith("text: Layers 0–2, 8, 11, 24, 28–29 carry most; 3–4, 7, 12–14 are cheap.")


def test_what_is_dear_costs_twice_the_median_by_hand():
    row = SMOLLM2["output_effect/dnll"]
    ordered = sorted(row)
    middle = (ordered[14] + ordered[15]) / 2
    dear, cheap = dear_and_cheap(row)
    assert all((row[i] > 2 * middle) == (i in dear) and (row[i] <= 0.6 * middle) == (i in cheap) for i in range(30))


def test_width_and_lens_are_read_off_at_their_depths(view):
    width, lens = findings(view, TEXT)[-2:]
    assert "most directions at depth 11 (64.5)" in width
    assert "At depths 3, 12–28 one direction" in width
    assert "from depth 19 on (63" in lens


def test_the_next_step_takes_as_many_layers_as_are_cheap(view):
    assert layers_to_go(view) == 5
    assert layers_to_go(AnalysisView(num_layers=30)) == 3


def test_what_was_not_measured_gives_no_finding():
    assert findings(AnalysisView(num_layers=4), TEXT) == []


def test_where_no_layer_stands_out_nothing_is_claimed():
    view = AnalysisView(num_layers=4, arrays={"output_effect/dnll": [1.0, 1.1, 0.9, 1.0]})
    assert headline(view, TEXT) == "No layer stands out."


def test_that_there_is_no_phase_change_is_said_once():
    view = AnalysisView(num_layers=4, phase_changes={"cosine_sign_flip": None, "dnll_change_point": None})
    assert len(phase_lines(view, TEXT)) == 1


@pytest.mark.parametrize("layers", [12, 16, 30, 36, 80, 126])
def test_every_layer_has_its_tick_and_numbers_do_not_touch(layers):
    axis = places(0, layers - 1)
    shown = axis["tickvals"]
    assert (shown[0], shown[-1], axis["range"]) == (0, layers - 1, [-0.5, layers - 0.5])
    assert axis["minor"]["dtick"] == 1
    assert axis["ticktext"] == [str(place) for place in shown]
    gaps = [b - a for a, b in itertools.pairwise(shown)]
    assert min(gaps) > max(gaps) / 2 if layers > 20 else set(gaps) == {1}
    assert len(shown) <= 22


def test_the_axis_of_a_figure_ends_at_the_last_layer(view):
    assert tuple(loss_without_layer(view, TEXT).layout.xaxis.range) == (-0.5, 29.5)
