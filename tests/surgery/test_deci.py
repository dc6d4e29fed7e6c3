"""Checkpoints without some attentions or MLPs: what is written is the model in memory; what cannot be is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import prune
from evals.cost import footprint
from prune.errors import PruneError, UsageError
from prune.model.loading import load_model
from prune.planning.plan import Plan
from prune.surgery.deci import deci_config, ffn_mult
from tests.tiny_llama import save_llama

IDS = torch.randint(0, 64, (2, 11), generator=torch.Generator().manual_seed(4))
SHAPE = {"hidden_size": 96, "intermediate_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2}
ATTENTION, MLP = [0, 2], [1, 2]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("deci") / "llama"
    return save_llama(directory, tie_word_embeddings=True, **SHAPE)


def parted(attn: list[int], mlp: list[int], layers: int = 4) -> Plan:
    order: list[int | str] = [*(f"attention.{i}" for i in attn), *(f"mlp.{i}" for i in mlp)]
    return Plan(
        source="made", num_layers=layers, keep=list(range(layers)), drop=[], order=order, criterion="explicit",
        strategy="explicit", unit="sublayer", drop_attention=attn, drop_mlp=mlp,
    )  # fmt: skip


def test_the_directory_is_the_model_without_its_sublayers(source: Path, tmp_path: Path) -> None:
    parted(ATTENTION, MLP).save(tmp_path / "plan.json")
    result = prune.cut(str(source), tmp_path / "out", plan=tmp_path / "plan.json", runtime=["mlx"])
    assert (result.verified, result.drop_attention, result.drop_mlp) == (True, ATTENTION, MLP)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["architectures"], config["model_type"]) == (["DeciLMForCausalLM"], "nemotron-nas")
    assert config["block_configs"][0] == {
        "attention": {"no_op": True, "n_heads_in_group": None, "replace_with_linear": False},
        "ffn": {"no_op": False, "ffn_mult": 4.0, "replace_with_linear": False},
    }
    assert config["block_configs"][1]["attention"]["n_heads_in_group"] == 2
    assert config["block_configs"][1]["ffn"] == {"no_op": True, "ffn_mult": None, "replace_with_linear": False}
    assert config["rope_theta"] == 10_000.0
    loaded, wanted = load_model(str(tmp_path / "out")), load_model(str(source))
    prune.cut(wanted, plan=parted(ATTENTION, MLP))
    assert torch.equal(loaded(IDS).logits, wanted(IDS).logits)
    asked: dict[str, Any] = {"max_new_tokens": 9, "do_sample": False, "attention_mask": torch.ones_like(IDS)}
    assert torch.equal(loaded.generate(IDS, **asked, pad_token_id=0), wanted.generate(IDS, **asked, pad_token_id=0))
    assert prune.verify(tmp_path / "out", runtime=["mlx"])["architecture"] == "LlamaForCausalLM"


def test_what_a_sublayer_cost_is_no_longer_counted(source: Path) -> None:
    model = load_model(str(source))
    before = footprint(model)
    after = footprint(prune.cut(model, plan=parted(ATTENTION, MLP)))
    assert after.kv_bytes_per_token == before.kv_bytes_per_token // 2
    gone = 2 * (96 * 96 * 2 + 96 * 48 * 2) + 2 * 3 * 96 * 256
    assert after.parameters == before.parameters - gone


def test_flags_name_sublayers_too(source: Path, tmp_path: Path) -> None:
    result = prune.cut(str(source), tmp_path / "out", drop_attn=[1], drop_mlp=[3], runtime=["mlx"])
    assert (result.drop_attention, result.drop_mlp) == ([1], [3])
    with pytest.raises(UsageError, match=r"both name layer 1.*removal of the layer.*drop_layers 1"):
        prune.cut(str(source), tmp_path / "two", drop_attn=[1], drop_mlp=[1, 3], runtime=["mlx"])


@pytest.mark.parametrize(("width", "hidden"), [(1536, 576), (14336, 4096), (8192, 3072), (5632, 2048), (25600, 5120)])
def test_widths_come_back_from_their_multiplier(width: int, hidden: int) -> None:
    read = int(2 * ffn_mult(width, hidden) * hidden / 3)
    assert -(-read // 256) * 256 == width


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"intermediate_size": 250}, "intermediate_size 250 cannot be stated.*256.*llama.cpp"),
        ({"model_type": "qwen3"}, "qwen3 has norms on queries and keys.*unit layer"),
        ({"model_type": "gemma3_text"}, "gemma3_text has norms on queries"),
        ({"model_type": "gpt2"}, "gpt2 is not shaped like Llama"),
        ({"head_dim": 16}, "head_dim 16 cannot be stated"),
        ({"attention_bias": True}, "attention_bias True cannot be stated"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' cannot be stated"),
    ],
)
def test_what_deci_cannot_carry_is_refused_by_name(config: dict[str, Any], message: str) -> None:
    with pytest.raises(PruneError, match=message):
        deci_config({"model_type": "llama", "num_hidden_layers": 4, "vocab_size": 64, **SHAPE, **config}, [1], [])


@pytest.mark.parametrize(
    ("attn", "mlp", "runtime", "message"),
    [
        ([1], [], [], "removes sub-layers.*llama.cpp.*mlx-lm.*in memory"),
        ([1], [], ["vllm"], "vllm: reads no model that lacks sub-layers.*original's configuration class.*mlx"),
        ([1], [], ["ctranslate2"], "ctranslate2: reads no model"),
        ([1], [], ["llama.cpp"], r"reads a GGUF file: give .*a name that ends in \.gguf"),
        ([0, 1, 2, 3], [], ["mlx"], "all 4 layers would lose attention"),
    ],
)
def test_who_reads_no_such_model_is_refused_with_who_does(
    source: Path, tmp_path: Path, attn: list[int], mlp: list[int], runtime: list[str], message: str
) -> None:
    with pytest.raises((PruneError, UsageError), match=message):
        prune.cut(str(source), tmp_path / "out", plan=parted(attn, mlp), runtime=runtime)
    assert not (tmp_path / "out").exists()


def test_plans_for_a_runtime_keep_what_it_needs(source: Path) -> None:
    ids = {"text": [{"input_ids": row} for row in IDS.tolist()]}
    for runtime in ("llama.cpp", "mlx"):
        found = prune.plan(str(source), ids, unit="attention", num_layers=2, criterion="last_n", runtime=[runtime])
        assert found.drop_attention == [2, 3]
    with pytest.raises(UsageError, match="protect"):
        prune.plan(str(source), ids, unit="attention", drop_layers=[0], runtime=["llama.cpp"])
    with pytest.raises(PruneError, match=r"unit sublayer with .*deci drops the attention.*unit attention"):
        prune.plan(str(source), ids, unit="sublayer", num_layers=3, runtime=["llama.cpp"])
    with pytest.raises(PruneError, match="vllm: reads no model"):
        prune.plan(str(source), ids, unit="attention", num_layers=3, runtime=["vllm"])


def test_a_layer_that_asks_to_be_skipped_is_refused(source: Path, tmp_path: Path) -> None:
    """transformers accepts `skip` and ignores it."""
    skipping = tmp_path / "skip"
    skipping.mkdir()
    for path in source.iterdir():
        (skipping / path.name).write_bytes(path.read_bytes())
    config = json.loads((source / "config.json").read_text())
    config["per_layer_config"] = {"2": {"skip": ["attention"]}}
    (skipping / "config.json").write_text(json.dumps(config))
    with pytest.raises(PruneError, match=r"per_layer_config of layer 2 says skip \['attention'\].*ignore"):
        prune.cut(str(skipping), tmp_path / "out", drop_layers=[1])
    assert not (tmp_path / "out").exists()
    with pytest.raises(PruneError, match=r"per_layer_config of layer 2 says skip"):
        prune.verify(skipping)


def test_a_layer_of_which_nothing_is_left_is_said_to_be_removed(source: Path, tmp_path: Path) -> None:
    result = prune.cut(str(source), tmp_path / "out", plan=parted(ATTENTION, MLP), runtime=["mlx"], dry_run=True)
    assert "nothing is left of layers 2, which is their removal" in result.notes[0]


@pytest.mark.parametrize(
    "change",
    [
        {"block_configs": []},
        {"block_configs": [{"attention": {"no_op": True}}] * 4},
        {"block_configs": "none"},
    ],
)
def test_block_configs_of_another_make_are_refused(source: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    prune.cut(str(source), tmp_path / "out", drop_attn=[1], runtime=["mlx"])
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    (tmp_path / "out" / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(PruneError, match="block_configs"):
        load_model(str(tmp_path / "out"))
