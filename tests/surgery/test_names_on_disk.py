"""Checkpoints whose names on disk are not those of a plain decoder: cut, loaded, compared with passing through."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from prune.checkpoint.directory import SINGLE, read_checkpoint
from prune.errors import PruneError
from prune.model.layer_list import find_layer_list
from prune.model.loading import load_model
from prune.surgery.cut import cut
from prune.surgery.proof import prove, reload
from prune.surgery.replay import logits

TEXT = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 96, "max_position_embeddings": 64,
}  # fmt: skip
VISION = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 8,
    "patch_size": 4, "projection_dim": 16,
}  # fmt: skip
IMAGE = 95
KEEP = [0, 2, 3]


def llava() -> Any:
    """A language model of four layers beside a vision tower of four layers."""
    torch.manual_seed(0)
    config = transformers.LlavaConfig(
        text_config={"model_type": "llama", **TEXT}, vision_config={"model_type": "clip_vision_model", **VISION},
        image_token_index=IMAGE,
    )  # fmt: skip
    return transformers.LlavaForConditionalGeneration(config).eval()


def causal(kind: str, **options: Any) -> Any:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **{**TEXT, **options})
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def without_layer_1(model: Any, **inputs: torch.Tensor) -> torch.Tensor:
    """Logits [B, T, V] with layer 1 passed through."""
    _, layers = find_layer_list(model)
    layers[1].forward = lambda hidden_states, *args, **options: hidden_states
    return model(**inputs, use_cache=False).logits


def test_a_vision_language_checkpoint_loses_language_layers_only(tmp_path: Path) -> None:
    model = llava()
    model.save_pretrained(tmp_path / "source")
    names = set(read_checkpoint(tmp_path / "source").tensors)
    assert any(name.startswith("language_model.model.layers.3.") for name in names)
    result = cut(str(tmp_path / "source"), tmp_path / "out", drop_layers=[1], verify=False)
    assert prove(tmp_path / "source", tmp_path / "out", result.keep)["num_layers"] == 3
    before, after = load_file(tmp_path / "source" / SINGLE), load_file(tmp_path / "out" / SINGLE)
    for name in names - {n for n in names if n.startswith("language_model.model.layers.")}:
        assert torch.equal(after[name], before[name]), name
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["text_config"]["num_hidden_layers"] == 3
    assert config["vision_config"]["num_hidden_layers"] == 4
    ids = torch.tensor([[5, *[IMAGE] * 4, 7, 8, 9]])  # [1, T], four image patches
    inputs = {"input_ids": ids, "pixel_values": torch.randn(1, 3, 8, 8)}
    with torch.no_grad():
        found = reload(tmp_path / "out").eval()(**inputs).logits
        torch.testing.assert_close(found, without_layer_1(model, **inputs), rtol=1e-5, atol=1e-6)


EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
FAMILIES: dict[str, tuple[dict[str, Any], str]] = {
    # family: (options, a tensor of layer 3 that shows the kind of name)
    "gpt_oss": ({**EXPERTS, "sliding_window": 4}, "mlp.experts.gate_up_proj"),  # all experts in one tensor
    "mixtral": (EXPERTS, "block_sparse_moe.experts.2.w1.weight"),  # one tensor an expert
    "glm4_moe": (
        {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_group": 1, "topk_group": 1,
         "first_k_dense_replace": 1},
        "mlp.gate.e_score_correction_bias",  # a buffer that is saved
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", FAMILIES)
def test_experts_and_saved_buffers_follow_their_layer(kind: str, tmp_path: Path) -> None:
    options, shown = FAMILIES[kind]
    model = causal(kind, **options)
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.normal_(std=0.1)
    model.save_pretrained(tmp_path / "source")
    cut(str(tmp_path / "source"), tmp_path / "out", drop_layers=[1], verify=False)
    before, after = load_file(tmp_path / "source" / SINGLE), load_file(tmp_path / "out" / SINGLE)
    assert torch.equal(after[f"model.layers.2.{shown}"], before[f"model.layers.3.{shown}"])
    assert not torch.equal(after[f"model.layers.2.{shown}"], before[f"model.layers.2.{shown}"])
    ids = torch.arange(3, 19)[None]  # [1, T]
    with torch.no_grad():
        found = reload(tmp_path / "out").eval()(ids).logits
        torch.testing.assert_close(found, without_layer_1(model, input_ids=ids), rtol=1e-5, atol=1e-6)


GPT2 = {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 64}
NEO = {"hidden_size": 32, "num_layers": 4, "num_heads": 4, "attention_types": [[["global", "local"], 2]]}
OLD: dict[str, tuple[str, dict[str, Any], str, list[str]]] = {
    # kind: (family, options, prefix that its base checkpoints lack, what old versions saved)
    "gpt2": ("gpt2", GPT2, "transformer.", ["h.{}.attn.bias", "h.{}.attn.masked_bias"]),
    "gpt_neo": ("gpt_neo", NEO, "", ["transformer.h.{}.attn.attention.bias"]),
    "llama": ("llama", {}, "", ["model.layers.{}.self_attn.rotary_emb.inv_freq"]),
    "tied": ("llama", {"tie_word_embeddings": True}, "", []),
}


@pytest.mark.parametrize("name", OLD)
def test_constants_and_tied_heads_that_old_versions_saved_are_carried_and_pass_the_proof(
    name: str, tmp_path: Path
) -> None:
    kind, options, prefix, extra = OLD[name]
    model = causal(kind, **options)
    model.save_pretrained(tmp_path / "source")
    weights = tmp_path / "source" / SINGLE
    tensors = {key.removeprefix(prefix): value for key, value in load_file(weights).items()}
    tensors |= {key.format(i): torch.full((4,), float(i)) for key in extra for i in range(4)}
    if name == "tied":
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, weights, {"format": "pt"})
    with mock.patch("prune.surgery.proof.prove_in_child", prove):
        assert cut(str(tmp_path / "source"), tmp_path / "out", drop_layers=[1]).verified
    after = load_file(tmp_path / "out" / SINGLE)
    for key in extra:
        assert [float(after[key.format(i)][0]) for i in range(3)] == KEEP
        assert key.format(3) not in after
    assert ("lm_head.weight" in after) == ("lm_head.weight" in tensors)
    ids = torch.arange(3, 19)[None]  # [1, T]
    with torch.no_grad():
        found = load_model(str(tmp_path / "out"), device="cpu")(ids).logits
        torch.testing.assert_close(found, logits(model, ids, [1]), rtol=1e-5, atol=1e-6)


def test_a_tensor_that_no_model_has_is_refused_by_name(tmp_path: Path) -> None:
    causal("llama").save_pretrained(tmp_path / "source")
    weights = tmp_path / "source" / SINGLE
    save_file(load_file(weights) | {"model.layers.3.mlp.bias": torch.ones(4)}, weights, {"format": "pt"})
    with (
        mock.patch("prune.surgery.proof.prove_in_child", prove),
        pytest.raises(PruneError, match=r"unexpected keys: model\.layers\.2\.mlp\.bias"),
    ):
        cut(str(tmp_path / "source"), tmp_path / "out", drop_layers=[1])
    assert not (tmp_path / "out").exists()


def test_other_formats_beside_the_weights_stay_behind_and_pickles_alone_are_refused(tmp_path: Path) -> None:
    source = tmp_path / "source"
    causal("llama").save_pretrained(source)
    (source / "original").mkdir()
    for name in ("original/consolidated.00.pth", "pytorch_model.bin", "consolidated.safetensors"):
        (source / name).write_bytes(b"not read")
    cut(str(source), tmp_path / "out", drop_layers=[1], verify=False)
    written = {path.name for path in (tmp_path / "out").rglob("*")}
    assert written == {"config.json", "generation_config.json", SINGLE, "prune_cut.json"}
    (source / SINGLE).unlink()
    (source / "consolidated.safetensors").unlink()
    with pytest.raises(PruneError, match=r"pickled weights only, .* save_pretrained"):
        cut(str(source), tmp_path / "again", drop_layers=[1], verify=False)
