"""What stages read: the type that models are computed in, by which results are known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from prune.embedded import MODEL
from prune.runs.inputs import RunInputs
from prune.runs.recipe import load_recipe

from .small import small_recipe


def of(recipe: Path, dtype: str) -> RunInputs:
    return RunInputs(load_recipe(recipe).model_copy(update={"dtype": dtype}), recipe.parent)


def test_auto_is_known_by_what_it_means_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = small_recipe(tmp_path)
    assert of(recipe, "auto").dtype == of(recipe, "float32").dtype == "float32"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    config = json.loads((MODEL / "config.json").read_text())
    assert of(recipe, "auto").dtype == (config.get("dtype") or config["torch_dtype"]) != "float32"
    assert of(recipe, "float32").dtype == "float32"
