"""A healed checkpoint is the pruned one but for what was trained: compared tensor by tensor, as bytes on disk."""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import save_file
from zoo.build import tiny_model
from zoo.families import FAMILIES

import prune.checkpoint.directory as directory_of
from prune.errors import PruneError
from prune.healing.heal import heal
from prune.model.loading import load_model
from prune.packaging.saving import save_healed, save_like, tensors_on_disk
from tests.healing.tiny import domain, settings

TEXT = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 64, "max_position_embeddings": 64,
}  # fmt: skip
VISION = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 8,
    "patch_size": 4,
}  # fmt: skip
MOE = {
    "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_group": 1, "topk_group": 1,
    "first_k_dense_replace": 1,
}  # fmt: skip
LINEAR = r"\.[0-3]\.(self_attn|attn|mlp|mlp\.shared_experts|mlp\.experts\.\d)\.(\w+_proj|c_\w+|gate)\.weight$"
LAST = r"layers\.3\.|h\.3\.|lm_head|"
LAYOUTS: dict[str, tuple[str, dict[str, Any], str, str]] = {
    # layout: (family, options, what adapters may change, what full tuning of layer 3 and the head may change)
    "dense": ("llama", {"tie_word_embeddings": False}, LINEAR, LAST + "-"),
    "tied": ("llama", {"tie_word_embeddings": True}, LINEAR, LAST + "embed_tokens"),
    "experts": ("glm4_moe", MOE, LINEAR, LAST + "-"),
    "no prefix": ("gpt2", {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 64}, LINEAR, LAST + "wte"),
    "vision": ("gemma3", {}, r"language_model.*" + LINEAR, r"language_model.*(" + LAST + "embed_tokens)"),
}


def made(layout: str) -> Any:
    torch.manual_seed(0)
    kind, options, *_ = LAYOUTS[layout]
    if kind == "gemma3":
        parts: dict[str, Any] = {"text_config": TEXT, "vision_config": VISION, "mm_tokens_per_image": 4}
        return transformers.Gemma3ForConditionalGeneration(transformers.Gemma3Config(**parts, image_token_index=63))
    sizes = {"vocab_size": 64} if kind == "gpt2" else TEXT
    return transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model(kind, **{**sizes, **options})
    )


def template(layout: str, target: Path) -> Path:
    """A checkpoint in shards: bfloat16, but vectors in float32, and a config that does not say so."""
    model = made(layout)
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.copy_(6.8 + 0.25 * torch.rand_like(buffer))
    model.save_pretrained(target, max_shard_size="20KB")
    for path in target.glob("*.safetensors"):
        tensors = read(path)
        cast = {n.removeprefix("transformer."): t.bfloat16() if t.dim() > 1 else t for n, t in tensors.items()}
        if layout == "tied" and "model.embed_tokens.weight" in cast:
            cast["lm_head.weight"] = cast["model.embed_tokens.weight"].clone()
        save_file(cast, path, {"format": "pt"})
    index = json.loads((target / directory_of.INDEX).read_text())
    index["weight_map"] = {name: path.name for path in target.glob("*.safetensors") for name in read(path)}
    (target / directory_of.INDEX).write_text(json.dumps(index))
    config = json.loads((target / "config.json").read_text())
    config.pop("dtype", None)
    (target / "config.json").write_text(json.dumps(config))
    (target / "NOTICE").write_text("kept")
    return target


def read(path: Path) -> dict[str, torch.Tensor]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def tensors(directory: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in directory.glob("*.safetensors") for name, tensor in read(path).items()}


def healed(source: Path, target: Path, **changes: Any) -> Any:
    options = settings(distill_weight=0, next_token_weight=1, max_steps=4, eval_steps=2, **changes)
    target.mkdir()
    result = heal(load_model(source), None, {"x": domain()}, options, output_dir=target.with_name("work"))
    save_healed(result.model, result.trained, result.as_dict(), None, source, target)
    return result


@pytest.mark.parametrize("method", ["lora", "dora", "qlora", "full"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_only_trained_tensors_change_and_each_keeps_its_type(layout: str, method: str, tmp_path: Path) -> None:
    source, target = template(layout, tmp_path / "source"), tmp_path / "healed"
    chosen: dict[str, Any] = {"train_layers": [3]} if method == "full" else {}
    if (layout, method) == ("experts", "dora"):  # peft has no DoRA of fused experts
        chosen["lora_target_modules"] = ["q_proj", "o_proj"]
    result = healed(source, target, method=method, **chosen)
    before, after = tensors(source), tensors(target)
    assert {p.name: p.stat().st_size for p in target.glob("*.safetensors")} == {
        p.name: p.stat().st_size for p in source.glob("*.safetensors")
    }
    assert {n: (t.dtype, t.shape) for n, t in before.items()} == {n: (t.dtype, t.shape) for n, t in after.items()}
    changed = {name for name in before if not torch.equal(raw(before[name]), raw(after[name]))}
    allowed = re.compile(LAYOUTS[layout][3 if method == "full" else 2])
    assert changed
    assert [name for name in changed if not allowed.search(name)] == []
    for name in ("config.json", "NOTICE", directory_of.INDEX):
        assert (target / name).read_bytes() == (source / name).read_bytes()

    own = result.model.state_dict()  # transformers' reading of the files is the trained model, rounded once
    for name, found in load_model(target, dtype="float32").state_dict().items():
        torch.testing.assert_close(found, own[name].float(), rtol=2**-8, atol=1e-30, msg=name)


def raw(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def test_trained_values_are_rounded_once_to_the_stored_type(tmp_path: Path) -> None:
    source = template("dense", tmp_path / "source")
    model = load_model(source, dtype="float32")
    names = ["model.layers.1.mlp.up_proj.weight", "model.norm.weight"]
    with torch.no_grad():
        for name in names:
            model.get_parameter(name).mul_(1.2345678)
    (tmp_path / "out").mkdir()
    save_like(model, names, source, tmp_path / "out")
    after = tensors(tmp_path / "out")
    assert torch.equal(after[names[0]], model.get_parameter(names[0]).bfloat16())
    assert torch.equal(after[names[1]], model.get_parameter(names[1]))


def test_untrained_weights_come_from_the_files_even_where_the_model_in_memory_rounded_them(tmp_path: Path) -> None:
    source = template("experts", tmp_path / "source")
    model = load_model(source, dtype="bfloat16").bfloat16()
    (tmp_path / "out").mkdir()
    save_like(model, ["model.layers.1.self_attn.q_proj.weight"], source, tmp_path / "out")
    bias = "model.layers.2.mlp.gate.e_score_correction_bias"
    before, after = tensors(source)[bias], tensors(tmp_path / "out")[bias]
    assert not torch.equal(before, before.bfloat16().float())
    assert torch.equal(before, after)


def test_a_trained_tensor_that_is_not_stored_plain_is_refused(tmp_path: Path) -> None:
    source = template("dense", tmp_path / "source")
    model = load_model(source)
    name = "model.layers.1.mlp.up_proj.weight"
    checkpoint = directory_of.read_checkpoint(source)
    entry = checkpoint.tensors.pop(name)
    with pytest.raises(PruneError, match=rf"holds no tensor '{name}', which was trained"):
        tensors_on_disk(model, [name], checkpoint)
    checkpoint.tensors[name] = directory_of.Tensor(
        entry.path, type(entry.entry)(name, "F8_E4M3", entry.entry.shape, 0, 0)
    )
    with pytest.raises(PruneError, match="only plain weights can be replaced"):
        tensors_on_disk(model, [name], checkpoint)
    with torch.no_grad():
        model.get_parameter("model.layers.2.mlp.up_proj.weight").fill_(torch.inf)
    (tmp_path / "out").mkdir()
    with pytest.raises(PruneError, match="cannot hold"):
        save_like(model, ["model.layers.2.mlp.up_proj.weight"], source, tmp_path / "out")


@pytest.mark.parametrize(("mask", "mode"), [(0o077, 0o600), (0o002, 0o664)])
def test_modes_follow_the_umask(mask: int, mode: int, tmp_path: Path) -> None:
    source = template("dense", tmp_path / "source")
    before = os.umask(mask)
    try:
        (tmp_path / "out").mkdir()
        save_healed(load_model(source), [], {}, None, source, tmp_path / "out")
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "out").iterdir()} == {mode}


FEW = ("qwen3_moe", "gpt_neo", "phi3", "mixtral", "jamba", "gpt_oss")


@pytest.mark.parametrize("family", FEW)
def test_all_weights_trained_come_back_through_transformers_own_reading(family: str, tmp_path: Path) -> None:
    saved_and_read(family, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(set(FAMILIES) - set(FEW)))
def test_all_weights_of_every_family_come_back(family: str, tmp_path: Path) -> None:
    saved_and_read(family, tmp_path)


def saved_and_read(family: str, scratch: Path) -> None:
    """Every parameter trained, in float32: what is read again is the trained model to the bit."""
    tiny_model(family).save_pretrained(scratch / "source")
    model = load_model(scratch / "source", dtype="float32")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.25).add_(0.125)
    (scratch / "out").mkdir()
    save_like(model, [name for name, _ in model.named_parameters()], scratch / "source", scratch / "out")
    found, own = load_model(scratch / "out", dtype="float32").state_dict(), model.state_dict()
    assert [name for name in own if not torch.equal(own[name], found[name])] == []
