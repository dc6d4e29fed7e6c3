"""`prune.compare` of loaded models: the same figures as of their checkpoints, nothing written, nothing changed."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import prune
from prune.errors import UsageError

DATA = {"chat": [f"{name} had a little dog. They played all day." for name in ("Tom", "Lily", "Ben", "Mia")]}
FEW = {"limit": 4, "bootstrap": 10, "prompt_tokens": 4, "new_tokens": 2, "repeats": 1}


@pytest.fixture(scope="module")
def model(demo_model):
    return AutoModelForCausalLM.from_pretrained(demo_model, dtype=torch.float32)


@pytest.fixture(scope="module")
def tokenizer(demo_model):
    return AutoTokenizer.from_pretrained(demo_model)


def test_loaded_models_are_compared_as_their_checkpoints_are(model, tokenizer, demo_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = prune.cut(model, drop_layers=[7, 8], copy=True)
    before = {name: value.clone() for name, value in small.state_dict().items()}
    small.train()
    asked = {"suite": "demo_math", "data": DATA, **FEW}
    found = prune.compare({"original": model, "cut": small}, tokenizer=tokenizer, **asked)
    assert list(tmp_path.iterdir()) == []
    assert small.training
    assert all(torch.equal(value, before[name]) for name, value in small.state_dict().items())

    prune.cut(demo_model, "small", drop_layers=[7, 8], verify=False)
    stored = prune.compare([demo_model, "small"], "compared", **asked)
    assert (tmp_path / "compared/compare.json").exists()
    assert [row.name for row in found.models] == ["original", "cut"]
    for ours, theirs in zip(found.models, stored.models, strict=True):
        assert ours.quality == theirs.quality
        assert ours.depth_score == theirs.depth_score
        assert ours.relative_contribution == theirs.relative_contribution
        assert ours.footprint.parameters == theirs.footprint.parameters
    assert [row.footprint.layers for row in found.models] == [16, 14]


def test_loaded_models_without_names_are_told_apart_by_their_depth(model, tokenizer):
    small = prune.cut(model, drop_layers=[7, 8], copy=True)
    found = prune.compare([model, small], dry_run=True)
    assert [name.rsplit(" (")[1] for name in found["models"]] == ["16 layers)", "14 layers)"]


def test_mistakes_name_the_argument(model, tokenizer):
    twin = prune.cut(model, drop_layers=[7, 8], copy=True)
    other = prune.cut(model, drop_layers=[5, 8], copy=True)
    for wrong, message in (
        ({"models": [model]}, "give two or more models"),
        ({"models": [model, model]}, "named twice"),
        ({"models": [twin, other]}, "give a mapping of names to models"),
        ({"models": [model, twin], "suite": "demo_math"}, "^tokenizer is missing"),
        ({"models": [model, twin], "depth_map": True}, "^depth_map takes exactly two models and documents"),
        ({"models": [model, 3]}, "is int; give a directory"),
    ):
        with pytest.raises(UsageError, match=message):
            prune.compare(**wrong)
