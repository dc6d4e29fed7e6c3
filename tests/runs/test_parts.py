"""Runs whose candidates lack attentions or MLPs: cut, healed, judged and exported as DeciLM directories, or refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import prune
from prune.embedded import MODEL
from prune.errors import GateFailed, PruneError, UsageError
from prune.model.loading import load_model
from prune.planning.plan import Plan
from prune.runs.recipe import load_recipe
from tests.runs.small import small_recipe
from tests.tiny_llama import save_llama


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"plan": {"unit": "mlp"}}, "plan.unit mlp.*set plan.runtime to mlx; for a GGUF file use"),
        ({"plan": {"unit": "attention", "runtime": ["llama.cpp"]}}, "a directory, which mlx alone reads"),
        ({"plan": {"unit": "mlp", "runtime": ["mlx"], "compensate": "scale"}}, "plan.compensate is of whole layers"),
        ({"plan": {"unit": "mlp", "runtime": ["mlx"]}, "heal": {"rounds": 2}}, "heal.rounds is of whole layers"),
        ({"plan": {"unit": "heads"}}, "unit.*layer.*attention.*mlp.*sublayer"),
    ],
)
def test_a_recipe_that_asks_for_what_no_export_carries_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        load_recipe(small_recipe(tmp_path, **changes))


def test_a_family_without_a_layout_for_it_is_refused_before_any_work(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path, plan={"unit": "attention", "runtime": ["mlx"]})
    with pytest.raises(PruneError, match="qwen3 has norms on queries and keys"):
        prune.run(recipe, tmp_path / "run")
    assert not list((tmp_path / "run").glob("analysis*"))


@pytest.mark.slow
def test_a_run_cuts_heals_judges_and_exports_without_some_attentions(tmp_path: Path) -> None:
    model = save_llama(
        tmp_path / "llama", vocab_size=2048, hidden_size=96, intermediate_size=256, num_hidden_layers=6,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(MODEL / name, model)
    recipe = small_recipe(tmp_path, plan={"unit": "attention", "runtime": ["mlx"], "depths": [4], "protect": []})
    recipe.write_text(recipe.read_text().replace("model: embedded", f"model: {model}"))
    with pytest.raises(GateFailed):  # random weights answer nothing, and a cut of them nothing better
        prune.run(recipe, tmp_path / "run")
    plan = Plan.load(tmp_path / "run" / "plan.json")
    assert (len(plan.drop_attention), plan.drop_mlp, plan.drop) == (2, [], [])
    for stage in ("pruned", "healed"):
        config = json.loads((tmp_path / "run" / stage / "4" / "config.json").read_text())
        assert [b["attention"]["no_op"] for b in config["block_configs"]] == [
            i in plan.drop_attention for i in range(6)
        ]
        assert (
            load_model(str(tmp_path / "run" / stage / "4")).num_parameters() < load_model(str(model)).num_parameters()
        )
    exported = tmp_path / "export"
    healed = tmp_path / "run" / "healed" / "4"
    prune.export(str(healed), exported, plan=str(tmp_path / "run" / "plan.json"), override="a test")
    assert not (exported / "mergekit_config.yml").exists()  # it would be a recipe for the original
    ids = torch.arange(2, 12).unsqueeze(0)
    assert torch.equal(load_model(str(exported))(ids).logits, load_model(str(healed))(ids).logits)
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf8")
    assert "4 attentions, 6 MLPs" in page
