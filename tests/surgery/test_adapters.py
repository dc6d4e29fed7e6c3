"""Adapters trained before the cut: cut base + cut adapter = base + adapter with those layers passed through."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import prune
from prune.errors import PruneError, UsageError
from prune.surgery.cut import cut
from tests.tiny_llama import save_llama

PROJECTIONS = ["q_proj", "down_proj"]
OPTIONS: dict[str, dict[str, Any]] = {
    "every_layer": {"target_modules": PROJECTIONS},
    "some_layers": {"target_modules": PROJECTIONS, "layers_to_transform": [0, 1, 3], "layers_pattern": "layers"},
    "patterns": {
        "target_modules": PROJECTIONS,
        "rank_pattern": {r"layers.3.mlp.down_proj": 2, r"layers\.1\.mlp\.down_proj": 3},
        "alpha_pattern": {r"^model.layers.3.self_attn.q_proj": 40},
    },
    "numbered_names": {"target_modules": ["layers.1.mlp.up_proj", "layers.3.mlp.up_proj"]},
    "regular_expression": {"target_modules": r".*\.layers\.\d+\.mlp\.up_proj"},
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("adapters") / "source", num_hidden_layers=5)


def adapter(source: Path, path: Path, **options: Any) -> Any:
    """A saved LoRA adapter with random weights on both sides; its model."""
    base = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    model = get_peft_model(base, LoraConfig(r=4, task_type="CAUSAL_LM", init_lora_weights=False, **options))
    model.save_pretrained(path)
    return model.eval()


@pytest.mark.parametrize("kind", OPTIONS)
def test_cut_base_and_cut_adapter_answer_as_the_passed_through_original(
    source: Path, tmp_path: Path, kind: str
) -> None:
    model = adapter(source, tmp_path / "lora", **OPTIONS[kind])
    result = cut(str(source), tmp_path / "out", drop_layers=[1, 2], adapters=[tmp_path / "lora"], verify=False)
    assert "adapters/lora/adapter_config.json" in result.files
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    ids = torch.arange(3, 19)[None]  # [1, T]
    with torch.no_grad():
        plain = base.eval()(ids).logits  # [1, T, V]
        shallow = PeftModel.from_pretrained(base, tmp_path / "out/adapters/lora").eval()
        for index in (1, 2):
            model.base_model.model.model.layers[index].forward = lambda hidden_states, *args, **options: hidden_states
        got = shallow(ids).logits
        torch.testing.assert_close(got, model(ids, use_cache=False).logits, rtol=1e-5, atol=1e-6)
        assert not torch.allclose(got, plain, rtol=1e-2, atol=1e-3)  # the adapter is there
    written = json.loads((tmp_path / "out/adapters/lora/adapter_config.json").read_text())
    assert written["base_model_name_or_path"] == str(tmp_path / "out")
    if kind == "some_layers":
        assert written["layers_to_transform"] == [0, 1]


def test_export_carries_the_adapter_and_it_answers_as_merged_then_cut(source: Path, tmp_path: Path) -> None:
    model = adapter(source, tmp_path / "lora", **OPTIONS["some_layers"])
    model.merge_and_unload().save_pretrained(tmp_path / "merged")
    cut(str(tmp_path / "merged"), tmp_path / "reference", drop_layers=[1, 2], verify=False)
    cut(str(source), tmp_path / "cut", drop_layers=[1, 2], adapters=[tmp_path / "lora"], verify=False)
    prune.export(str(tmp_path / "cut"), tmp_path / "export", override="a test")
    prune.verify(tmp_path / "export")
    carried = tmp_path / "export/adapters/lora"
    assert json.loads((carried / "adapter_config.json").read_text())["base_model_name_or_path"] == "export"
    before, after = (
        path / "adapters/lora/adapter_model.safetensors" for path in (tmp_path / "cut", tmp_path / "export")
    )
    assert load_file(before).keys() == load_file(after).keys()
    reference, base = (
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        for path in (tmp_path / "reference", tmp_path / "export")
    )
    ids = torch.arange(3, 19)[None]  # [1, T]
    with torch.no_grad():
        plain = base(ids).logits  # [1, T, V]
        found = PeftModel.from_pretrained(base, carried).eval()(ids).logits
        torch.testing.assert_close(found, reference(ids).logits, rtol=1e-5, atol=1e-6)
        assert not torch.allclose(found, plain, rtol=1e-2, atol=1e-3)
    edited(tmp_path / "cut/adapters/lora", layers_to_transform=[7])
    with pytest.raises(PruneError, match="layers_to_transform"):
        prune.export(str(tmp_path / "cut"), tmp_path / "again", override="a test")
    assert not (tmp_path / "again").exists()


def edited(path: Path, **changes: Any) -> None:
    file = path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"target_modules": r".*\.layers\.(0|3)\.mlp\.up_proj"}, "target_modules"),
        ({"rank_pattern": {"layers.[34].mlp.up_proj": 2}}, "rank_pattern"),
        ({"alpha_pattern": {r"3\.mlp\.up_proj": 2}}, "alpha_pattern"),
        ({"layers_to_transform": [1, 2]}, "layers_to_transform"),
        ({"layer_replication": [[0, 2], [1, 5]]}, "layer_replication"),
        ({"peft_type": "PREFIX_TUNING"}, "peft_type"),
        ({"layers_to_transform": 1.5}, "layers_to_transform is 1.5; it must be a layer number"),
        ({"layers_to_transform": [[1]]}, "layers_to_transform is .*; it must be a layer number"),
        ({"rank_pattern": "layers.1"}, "rank_pattern is layers.1; it must be a JSON object of numbers"),
        ({"target_modules": [1]}, "target_modules is .*; it must be a name or a list of names"),
        ({"exclude_modules": 5}, "exclude_modules is 5; it must be a name"),
        ({"alpha_pattern": {"(": 2}}, "alpha_pattern holds a bad regular expression"),
        (
            {"exclude_modules": "(.*)" * 10 + r"\1\2\3\4\5[^z].*"},
            "exclude_modules holds a regular expression that takes for ever",
        ),
    ],
)
def test_what_cannot_follow_is_refused_by_field(
    source: Path, tmp_path: Path, changes: dict[str, Any], field: str
) -> None:
    adapter(source, tmp_path / "lora", target_modules=["up_proj"])
    edited(tmp_path / "lora", **changes)
    with pytest.raises(PruneError, match=field):
        cut(str(source), tmp_path / "out", drop_layers=[1, 2], adapters=[tmp_path / "lora"], verify=False)
    assert not (tmp_path / "out").exists()


def test_another_models_adapter_and_two_of_one_name_are_refused(source: Path, tmp_path: Path) -> None:
    adapter(source, tmp_path / "lora", target_modules=["up_proj"])
    cut(str(source), tmp_path / "shallow", drop_layers=[4], verify=False)
    with pytest.raises(PruneError, match="the model has 4 layers"):
        cut(str(tmp_path / "shallow"), tmp_path / "out", drop_layers=[0], adapters=[tmp_path / "lora"], verify=False)
    with pytest.raises(UsageError, match="second adapter named 'lora'"):
        cut(str(source), tmp_path / "out", drop_layers=[0], adapters=[tmp_path / "lora"] * 2, verify=False)
    with pytest.raises(UsageError, match=r"adapter_config\.json"):
        cut(str(source), tmp_path / "out", drop_layers=[0], adapters=[source], verify=False)
