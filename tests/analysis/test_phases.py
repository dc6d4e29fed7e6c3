"""Where a model changes its work: found where there is a change, not found where there is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from prune.analysis import analyze
from prune.analysis.phases import agreement, change_point, phase_changes, sign_flip, split_gain
from prune.analysis.statistics import Records
from prune.wording.text import english

from .tiny import BASE, domains

DEPTHS = (12, 16, 32)


def noisy(curve: np.ndarray, size: float, seed: int = 0) -> np.ndarray:
    return curve * np.exp(np.random.default_rng(seed).normal(0, size, len(curve)))


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("first", [1.0, 20.0])
def test_a_step_is_found_at_its_layer_whatever_the_first_layer_does(depth: int, first: float) -> None:
    curve = np.where(np.arange(depth) < depth // 2, 0.5, 0.1)
    curve[0] *= first
    found = [change_point(noisy(curve, 0.1, seed)) for seed in range(20)]
    assert found.count(depth // 2) >= 18


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("exponent", [0.5, 1.0])
def test_contributions_that_only_fade_are_no_change(depth: int, exponent: float) -> None:
    fading = (1.0 + np.arange(depth)) ** -exponent  # what layers of equal size add to a stream that grows
    assert [change_point(noisy(fading, 0.05, seed)) for seed in range(20)].count(None) >= 18


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_cliff_in_a_curve_that_fades_is_found(depth: int) -> None:
    cliff = round(0.65 * depth)
    curve = (1.0 + np.arange(depth)) ** -0.8 * np.where(np.arange(depth) < cliff, 1.0, 0.13)
    found = [change_point(noisy(curve, 0.1, seed)) for seed in range(10)]
    assert found.count(None) <= 1
    assert abs(np.median([layer for layer in found if layer is not None]) - cliff) <= 1


def test_a_step_in_a_slope_is_found() -> None:
    place = np.arange(24) / 23
    assert change_point(noisy(np.where(place < 0.6, 0.5 - 0.2 * place, 0.15 - 0.05 * place), 0.05)) == 14


def test_chance_finds_a_change_in_one_curve_out_of_twenty_at_most() -> None:
    random = np.random.default_rng(0)
    assert sum(change_point(random.normal(size=16)) is not None for _ in range(200)) <= 17
    assert sum(sign_flip(random.normal(size=16)) is not None for _ in range(200)) <= 17


@pytest.mark.parametrize(
    ("signs", "layer"),
    [
        ("++++----", 4),
        ("---+++++", 3),
        ("++++-+------", 6),
        ("+-+-+-++-+-", None),
        ("+++++++++++-", None),  # the last layer alone is no phase
        ("++++++++", None),
        ("++--", None),
    ],
)
def test_the_sign_flips_for_good_or_not_at_all(signs: str, layer: int | None) -> None:
    assert sign_flip(np.array([0.1 if sign == "+" else -0.2 for sign in signs])) == layer


def test_the_gain_of_a_split_is_the_squared_error_that_it_removes() -> None:
    row = np.random.default_rng(1).normal(size=9)
    best = max(
        ((row - row.mean()) ** 2).sum() - ((a - a.mean()) ** 2).sum() - ((b - b.mean()) ** 2).sum()
        for a, b in (np.split(row, [size]) for size in range(2, 8))
    )
    assert split_gain(row[None, :])[0] == pytest.approx(best)


def random_model(family: str, depth: int) -> torch.nn.Module:
    torch.manual_seed(0)
    sizes = {**BASE, "num_hidden_layers": depth, "hidden_size": 64}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **sizes)).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data *= 4  # as much as layers of trained models write
    return model


DOCUMENTS = {"random": (20, 30, 14, 22, 9, 17)}


@pytest.mark.parametrize("quiet_from", [6, 11])
def test_a_model_whose_later_layers_write_little_changes_there(quiet_from: int) -> None:
    model = random_model("llama", 16)
    for layer in model.model.layers[quiet_from:]:
        layer.self_attn.o_proj.weight.data *= 0.1
        layer.mlp.down_proj.weight.data *= 0.1
    found = analyze(model, domains(DOCUMENTS), measure=("contributions", "future"), bootstrap=60).info["phase_changes"]
    for name in ("contribution_change_point", "future_effect_change_point"):
        assert found[name]["layer"] == quiet_from
        assert found[name]["lo"] <= quiet_from <= found[name]["hi"]
    assert found["cosine_sign_flip"] is None
    assert found["agreement"].startswith("the indicators disagree")


@pytest.mark.parametrize(("family", "depth"), [("llama", 16), ("gpt_neox", 16), ("qwen3", 24)])
def test_a_random_model_shows_no_change(family: str, depth: int) -> None:
    found = analyze(random_model(family, depth), domains(DOCUMENTS), measure=("contributions", "dnll"))
    assert found.info["phase_changes"] == {
        "cosine_sign_flip": None, "contribution_change_point": None, "dnll_change_point": None,
        "agreement": "no indicator finds a change",
    }  # fmt: skip


def test_the_interval_of_a_change_covers_it_and_disagreement_is_said() -> None:
    random, documents, depth = np.random.default_rng(0), 40, 20
    records = Records(documents)
    layers = np.arange(depth)
    for key, place in (("relative_contribution/layer", 8), ("output_effect/dnll", 15)):
        values = np.where(layers < place, 0.5, 0.2) * np.exp(random.normal(0, 0.3, (documents, depth)))
        records.add(key, range(documents), values, np.ones(documents))
    found = phase_changes([records], 100, seed=0)
    for name, place in (("contribution_change_point", 8), ("dnll_change_point", 15)):
        assert found[name]["lo"] <= place <= found[name]["hi"]
        assert found[name]["found_share"] > 0.9
    assert "cosine_sign_flip" not in found
    assert found["agreement"].startswith("the indicators disagree: relative contribution at layer 8, loss without")
    assert english(agreement({**found, "dnll_change_point": {"layer": 9, "lo": 8, "hi": 10}})).startswith(
        "the indicators agree within"
    )
