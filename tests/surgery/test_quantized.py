"""Quantised checkpoints: extra tensors carried by name, layer numbers in quantization_config remapped or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from prune.checkpoint.directory import SINGLE, read_checkpoint
from prune.checkpoint.headers import read_header
from prune.errors import PruneError
from prune.surgery.cut import cut
from prune.surgery.proof import prove
from tests.faults.checkpoints import CONFIG, tensor_file

PACKED = {
    "gptq": ["qweight", "qzeros", "scales", "g_idx"],
    "awq": ["qweight", "qzeros", "scales"],
    "fp8": ["weight", "weight_scale_inv"],
    "compressed-tensors": ["weight_packed", "weight_scale", "weight_shape", "input_global_scale"],
    "bitsandbytes": ["weight", "weight.absmax", "weight.quant_map", "weight.quant_state.bitsandbytes__nf4", "SCB"],
}
SKIPS: dict[str, dict[str, Any]] = {
    "gptq": {"dynamic": {r"-:model\.layers\.3\.mlp": {}}, "bits": 4},
    "awq": {"modules_to_not_convert": ["model.layers.3.mlp"]},
    "fp8": {"ignored_layers": ["model.layers.3.mlp"]},
    "compressed-tensors": {"ignore": ["lm_head", "model.layers.3.mlp", r"re:model\.layers\.1\.mlp"]},
    "bitsandbytes": {"llm_int8_skip_modules": ["model.layers.3.mlp"]},
}


@pytest.mark.parametrize("method", PACKED)
def test_packed_tensors_and_skip_lists_follow_their_layer(tmp_path: Path, method: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    names = [f"model.layers.{i}.mlp.{part}" for i in range(4) for part in PACKED[method]]
    tensor_file(source / SINGLE, names)
    quantization = {"quant_method": method, **SKIPS[method]}
    (source / "config.json").write_text(json.dumps(CONFIG | {"quantization_config": quantization}))
    cut(str(source), tmp_path / "out", drop_layers=[1], verify=False)
    kept = [f"model.layers.{i}.mlp.{part}" for i in range(3) for part in PACKED[method]]
    assert sorted(entry.name for entry in read_header(tmp_path / "out" / SINGLE).entries) == sorted(kept)
    before, after = read_checkpoint(source), read_checkpoint(tmp_path / "out")
    for new, old in enumerate([0, 2, 3]):
        for part in PACKED[method]:
            assert payload(after, f"model.layers.{new}.mlp.{part}") == payload(before, f"model.layers.{old}.mlp.{part}")
    edited = json.dumps(after.config["quantization_config"])
    assert "2" in edited.replace("\\", "").split("layers.")[1][:1]
    assert "layers.3" not in edited.replace("\\", "")


def payload(checkpoint: Any, name: str) -> bytes:
    tensor = checkpoint.tensors[name]
    return tensor.path.read_bytes()[tensor.entry.begin : tensor.entry.end]


@pytest.mark.parametrize("pattern", [r"re:model\.layers\.(1|3)\.mlp", r"re:model\.layers\.[13]\.mlp"])
def test_a_pattern_over_layer_numbers_is_written_out_as_the_names_it_matched(tmp_path: Path, pattern: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    tensor_file(source / SINGLE, [f"model.layers.{i}.mlp.{part}.w" for i in range(4) for part in ("up", "down")])
    quantization = {"quant_method": "compressed-tensors", "ignore": ["lm_head", pattern]}
    (source / "config.json").write_text(json.dumps(CONFIG | {"quantization_config": quantization}))
    cut(str(source), tmp_path / "out", drop_layers=[1], verify=False)
    found = json.loads((tmp_path / "out/config.json").read_text())["quantization_config"]["ignore"]
    assert sorted(found) == ["lm_head", *(f"model.layers.2.mlp{part}" for part in ("", ".down", ".up"))]


def test_a_pattern_that_matches_nothing_here_is_refused_by_field(tmp_path: Path) -> None:
    tensor_file(tmp_path / SINGLE, [f"model.layers.{i}.w" for i in range(4)])
    quantization = {"quant_method": "compressed-tensors", "ignore": [r"re:model\.layers\.(1|3)\.mlp"]}
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"quantization_config": quantization}))
    with pytest.raises(PruneError, match=r"quantization_config\.ignore"):
        cut(str(tmp_path), tmp_path.parent / "out", drop_layers=[1], verify=False)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_real_bitsandbytes_checkpoint_keeps_every_bit_of_its_kept_layers(tmp_path: Path, bits: int) -> None:
    pytest.importorskip("bitsandbytes")
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=2,
        num_key_value_heads=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "plain")
    settings = (
        BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
        if bits == 4
        else BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["lm_head", "model.layers.3.mlp.down_proj"])
    )
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "plain", quantization_config=settings, dtype=torch.float32)
    model.save_pretrained(tmp_path / "source")
    kinds = {tensor.entry.dtype for tensor in read_checkpoint(tmp_path / "source").tensors.values()}
    assert ("U8" if bits == 4 else "I8") in kinds
    with mock.patch("prune.surgery.proof.prove_in_child", prove):
        assert cut(str(tmp_path / "source"), tmp_path / "out", drop_layers=[1]).verified
    shallow = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    plain = [name for name, part in shallow.named_modules() if type(part) is torch.nn.Linear]
    assert plain == (["lm_head"] if bits == 4 else ["model.layers.2.mlp.down_proj", "lm_head"])
    model.model.layers[1].forward = lambda hidden_states, *args, **options: hidden_states
    ids = torch.arange(3, 19)[None]  # [1, T]
    with torch.no_grad():
        assert torch.equal(shallow(ids).logits, model.eval()(ids, use_cache=False).logits)
