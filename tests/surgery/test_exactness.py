"""A cut on disk, a removal in memory and a skipped layer are the same model, bit for bit."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from prune.errors import PruneError
from prune.model.layer_list import find_layer_list
from prune.surgery.cut import cut
from prune.surgery.loaded import drop_layers
from prune.surgery.proof import reload
from prune.surgery.signature import check_directories

SMALL: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 8, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 96, "max_position_embeddings": 64,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 5},
    "gemma3_text": {"sliding_window": 4},
    "smollm3": {},
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 4},
    "qwen3_moe": {**EXPERTS, "decoder_sparse_step": 2, "mlp_only_layers": [1]},
}
DROPS = {"llama": [[0], [7], [1, 2, 6]]}


def build(kind: str) -> Any:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **{**SMALL, **FAMILIES[kind]})
    return transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()


def skipped(model: Any, drop: list[int], ids: torch.Tensor) -> torch.Tensor:
    """Logits of the whole model with the layers' forward replaced by pass-through."""
    _, layers = find_layer_list(model)
    for index in drop:
        layers[index].forward = lambda hidden_states, *args, **kwargs: hidden_states
    return model(ids, use_cache=False).logits


@pytest.mark.parametrize("kind", FAMILIES)
def test_disk_equals_memory_equals_skipping(kind: str, tmp_path: Path) -> None:
    model = build(kind)
    model.save_pretrained(tmp_path / "source")
    ids = torch.randint(3, 96, (2, 12), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for number, drop in enumerate([*DROPS.get(kind, []), [3, 4]]):
            output = tmp_path / f"out{number}"
            result = cut(str(tmp_path / "source"), output, drop_layers=drop, verify=False)
            check_directories(tmp_path / "source", output, result.keep)
            disk = reload(output).eval()
            disk.set_attn_implementation("eager")
            memory = drop_layers(copy.deepcopy(model), drop)
            on_disk, in_memory = disk(ids).logits, memory(ids).logits
            assert (on_disk - in_memory).abs().max() == 0
            assert (in_memory - skipped(copy.deepcopy(model), drop, ids)).abs().max() == 0
            options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
            cached = memory.generate(ids, **options)
            assert torch.equal(cached, memory.generate(ids, use_cache=False, **options))
            assert torch.equal(cached, disk.generate(ids, **options))


def test_the_written_config_keeps_the_originals_keys(tmp_path: Path) -> None:
    build("llama").save_pretrained(tmp_path / "source")
    path = tmp_path / "source" / "config.json"
    old = json.loads(path.read_text())
    del old["rope_parameters"]
    old |= {"rope_theta": 5000.0, "torch_dtype": "float32"}
    path.write_text(json.dumps(old))
    cut(str(tmp_path / "source"), tmp_path / "out", drop_layers="3-4", verify=False)
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == old | {"num_hidden_layers": 6}


def test_the_proof_refuses_a_result_whose_pattern_shifted(tmp_path: Path) -> None:
    build("gemma3_text").save_pretrained(tmp_path / "source")
    result = cut(str(tmp_path / "source"), tmp_path / "out", drop_layers=[3], verify=True)
    assert result.verified
    path = tmp_path / "out" / "config.json"
    config = json.loads(path.read_text())
    config["layer_types"] = config["layer_types"][::-1]
    path.write_text(json.dumps(config))
    with pytest.raises(PruneError, match=r"layer \d as layer \d: .*(sliding|attention|is_)"):
        check_directories(tmp_path / "source", tmp_path / "out", result.keep)
