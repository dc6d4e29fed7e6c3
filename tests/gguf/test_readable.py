"""What transformers reads is imported, architecture by architecture: no tensor is taken for one without a place."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.integrations import GGUF_CONFIG_MAPPING
from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

import prune
from prune.gguf import readable
from tests.gguf.files import byte_level, finish, sentencepiece

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
         "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 64, "tie_word_embeddings": False,
         "pad_token_id": None, "bos_token_id": 0, "eos_token_id": 1}  # fmt: skip
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "shared_expert_intermediate_size": 64}
KINDS = {
    "qwen2": ("qwen2", {}), "qwen3": ("qwen3", {}), "qwen3moe": ("qwen3_moe", MOE), "qwen2moe": ("qwen2_moe", MOE),
    "gemma2": ("gemma2", {"tie_word_embeddings": True}), "starcoder2": ("starcoder2", {"tie_word_embeddings": True}),
}  # fmt: skip
"""Architecture -> model_type, and what its config needs."""


def save(path: Path, architecture: str) -> torch.nn.Module:
    """A random model as a file, by transformers' own tables of keys and names; no value is transformed."""
    kind, extra = KINDS[architecture]
    tokens, merges, types = sentencepiece() if architecture == "gemma2" else byte_level()
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**SIZES, **extra, "vocab_size": len(tokens)})
    model = AutoModelForCausalLM.from_config(config)
    file = gguf.GGUFWriter(path, architecture)
    for key, name in GGUF_CONFIG_MAPPING[kind].items():
        value = config.rope_parameters["rope_theta"] if name == "rope_theta" else getattr(config, name or "", None)
        if value is not None and key != "attention.key_length":
            (file.add_uint32 if isinstance(value, int) else file.add_float32)(f"{architecture}.{key}", value)
    file.add_uint32(f"{architecture}.attention.key_length", SIZES["head_dim"])
    if "moe" in architecture:
        file.add_expert_feed_forward_length(MOE["moe_intermediate_size"])
        file.add_expert_shared_feed_forward_length(MOE["shared_expert_intermediate_size"])
    file.add_tokenizer_model("gpt2" if merges else "llama")
    file.add_token_list(tokens)
    file.add_token_types(types)
    file.add_eos_token_id(1)
    if merges:
        file.add_token_merges(merges)
    else:
        file.add_token_scores([-float(index) for index in range(len(tokens))])
        file.add_unk_token_id(3)
    state = model.state_dict()
    processor = TENSOR_PROCESSORS.get(architecture, TensorProcessor)(config=config.to_dict())
    for name, place in get_gguf_hf_weights_map(model, processor).items():
        value = state[place].numpy()
        if "_exps" in name:  # stacked, without an ending, and gate and up are one in transformers
            name = name.removesuffix(".weight") + ".weight"
            half = value.shape[1] // 2
            value = value[:, :half] if "gate_exps" in name else value[:, half:] if "up_exps" in name else value
        if "ffn_gate_inp_shexp" in name:
            value = value[0]
        file.add_tensor(name, numpy.ascontiguousarray(value))
    finish(file)
    return model


@pytest.mark.parametrize("architecture", KINDS)
def test_an_architecture_that_transformers_reads_is_imported_whole(tmp_path: Path, architecture: str) -> None:
    model = save(tmp_path / "a.gguf", architecture)
    result = prune.import_gguf(tmp_path / "a.gguf", tmp_path / "out", dtype="float32")
    assert (result.architecture, result.num_layers, result.verified) == (architecture, 2, True)
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert type(found) is type(model)
    expected = model.state_dict()
    assert expected.keys() == found.state_dict().keys()
    for name in ("model.embed_tokens.weight", "model.layers.1.self_attn.v_proj.weight"):
        assert torch.equal(found.state_dict()[name], expected[name])


def test_the_list_is_of_decoders_as_files_spell_them() -> None:
    known = readable.architectures()
    assert {"llama", "gemma3", "qwen3moe", "gpt-oss", "lfm2", "qwen35"} <= set(known)
    assert not {"t5", "general", "tokenizer", "qwen3_moe", "gpt_oss"} & set(known)
    assert set(known) <= set(gguf.MODEL_ARCH_NAMES.values())
