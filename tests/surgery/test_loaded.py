"""A loaded model cut in place: cache, config and saved checkpoint agree (transformers#30508); sub-layers."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from zoo.build import tiny_model

import prune
from prune.errors import PruneError, UsageError
from prune.model.anatomy import find_anatomy
from prune.surgery.proof import reload
from prune.surgery.replay import cache_error, logits
from prune.surgery.sublayers import as_layers, drop_sublayers, without_sublayers

IDS = torch.randint(4, 128, (2, 13), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def qwen() -> Any:
    return tiny_model("qwen3")


def test_the_same_object_generates_and_saves_as_the_shallower_model(qwen: Any, tmp_path: Path) -> None:
    model = copy.deepcopy(qwen)
    assert prune.cut(model, drop_layers="3-4") is model
    assert [layer.self_attn.layer_idx for layer in model.model.layers] == list(range(6))
    assert (model.config.num_hidden_layers, len(model.config.layer_types)) == (6, 6)
    assert torch.equal(logits(model, IDS), logits(qwen, IDS, [3, 4]))
    assert cache_error(model, IDS) < 1e-4
    model.save_pretrained(tmp_path / "saved")
    assert torch.allclose(logits(reload(tmp_path / "saved"), IDS), logits(model, IDS), atol=1e-5)


def test_a_refusal_leaves_the_model_as_it_was(qwen: Any) -> None:
    model = copy.deepcopy(qwen)
    for arguments in ({"drop_layers": [8]}, {"drop_layers": [0], "keep_layers": [1]}, {}):
        with pytest.raises(UsageError):
            prune.cut(model, **arguments)
    with pytest.raises(UsageError, match="save_pretrained"):
        prune.cut(model, "somewhere", drop_layers=[0])
    assert torch.equal(logits(model, IDS), logits(qwen, IDS))


SUBLAYERS = ("qwen3", "gpt2", "gemma2", "gpt_neox", "bloom", "opt", "gpt_oss", "granitemoeshared", "falcon")


@pytest.mark.parametrize("family", SUBLAYERS)
def test_a_dropped_sublayer_adds_nothing_and_comes_back(family: str) -> None:
    model = tiny_model(family)
    before, wanted = logits(model, IDS), skipping(model, family)
    with without_sublayers(model, attn=[2, 5], mlp=[5]):
        attention_gone, cached = logits(model, IDS), cache_error(model, IDS)
    assert torch.allclose(attention_gone, wanted, atol=1e-5)
    assert cached < 1e-4
    assert not torch.allclose(attention_gone, before, atol=1e-2)
    assert torch.equal(logits(model, IDS), before)


def skipping(model: Any, family: str) -> torch.Tensor:
    """Layer 5 passed through, and in layer 2 what the attention module returns replaced by no addition."""
    module = find_anatomy(model).attention[2]
    assert module is not None

    def nothing(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        first = output[0] if isinstance(output, tuple) else output
        # BLOOM adds the stream inside the module, whose second argument it is
        none = args[1] if family == "bloom" else torch.zeros_like(first)
        return (none, *output[1:]) if isinstance(output, tuple) else none

    handle = module.register_forward_hook(nothing, with_kwargs=True)
    try:
        return logits(model, IDS, [5])
    finally:
        handle.remove()


@pytest.mark.parametrize("cause", ["a norm with a bias", "a hook"])
def test_what_still_adds_without_its_projection_is_refused_and_restored(cause: str) -> None:
    model = tiny_model("gemma2")
    layer = model.model.layers[1]
    if cause == "a hook":  # the MLP's contribution ends in something that is no projection
        layer.post_feedforward_layernorm.register_forward_hook(lambda m, a, out: out + 1)
    else:
        norm = torch.nn.LayerNorm(model.config.hidden_size)
        torch.nn.init.ones_(norm.bias)
        layer.post_feedforward_layernorm = norm
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    said = logits(model, IDS)
    with pytest.raises(PruneError, match=r"layer 1.*still add|still add.*layer 1"):
        drop_sublayers(model, mlp=[1])
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(logits(model, IDS), said)
    assert not torch.equal(said, logits(tiny_model("gemma2"), IDS))


def test_sublayers_on_disk_only_where_they_are_layers() -> None:
    llama = {"model_type": "llama", "num_hidden_layers": 8}
    assert as_layers(llama, [2, 3], [3, 2]) == [2, 3]
    with pytest.raises(PruneError, match="loaded_model"):
        as_layers(llama, [2, 3], [3])
    nemotron = {"model_type": "nemotron_h", "layers_block_type": ["linear_attention", "mlp", "full_attention", "moe"]}
    assert as_layers(nemotron, [0], [3]) == [0, 3]
    with pytest.raises(UsageError, match="layer 1 is mlp"):
        as_layers(nemotron, [1], [])
