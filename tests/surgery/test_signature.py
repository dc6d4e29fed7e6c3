"""Families that nobody has seen: invented ones, each with one hidden dependence on a layer's number or the depth.

Nothing in the tables knows them; a cut must be refused by the signature check, or by the replay of logits where the
dependence is arithmetic inside `forward`, and must go through where a family has no such dependence.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from prune.errors import PruneError
from prune.surgery.cut import cut
from prune.surgery.loaded import drop_layers
from prune.surgery.proof import prove
from prune.surgery.signature import check_signatures, skeleton

SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 6, "num_attention_heads": 4,
         "num_key_value_heads": 2, "vocab_size": 96, "max_position_embeddings": 64}  # fmt: skip


class InventedConfig(LlamaConfig):
    model_type = "invented"
    secret: str = "none"


class InventedLayer(LlamaDecoderLayer):
    """A Llama layer whose `secret` depends on its number."""

    def __init__(self, config: InventedConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.secret, self.index = config.secret, _Number(layer_idx)
        if config.secret == "private scalar":
            self._gain = 1 / (layer_idx + 1)
        if config.secret == "tuple":
            self.window = (layer_idx % 3, 4)
        if config.secret == "plain tensor":
            self.slopes = torch.full((4,), 0.5**layer_idx)
        if config.secret == "buffer":
            self.register_buffer("decay", torch.full((4,), 0.5**layer_idx), persistent=False)
        if config.secret == "shape":
            self.extra = torch.nn.Parameter(torch.zeros(8 * (1 + layer_idx % 2)))
        if config.secret == "class" and layer_idx % 2:
            self.post_attention_layernorm = torch.nn.Identity()

    def forward(self, hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        result = super().forward(hidden_states, **kwargs)
        return result * (1 + 0.1 * self.index.value) if self.secret == "arithmetic" else result


class _Number:
    """Hides a number from everything that looks at attributes."""

    def __init__(self, value: int) -> None:
        self.value = value


class InventedForCausalLM(LlamaForCausalLM):
    config_class = InventedConfig
    _no_split_modules = ["InventedLayer"]  # noqa: RUF012 (how transformers declares it)

    def __init__(self, config: InventedConfig) -> None:
        super().__init__(config)
        self.model.layers = torch.nn.ModuleList(InventedLayer(config, i) for i in range(config.num_hidden_layers))
        if config.secret == "outside":
            self.model.scale = 1 / math.sqrt(config.num_hidden_layers)
        self.post_init()


AutoConfig.register("invented", InventedConfig)
AutoModelForCausalLM.register(InventedConfig, InventedForCausalLM)

SHOWN = {"private scalar": "_gain", "tuple": "window", "plain tensor": "slopes", "buffer": "decay", "shape": "extra",
         "class": "post_attention_layernorm", "outside": "scale"}  # fmt: skip


def invented(secret: str) -> InventedForCausalLM:
    torch.manual_seed(0)
    model = InventedForCausalLM(InventedConfig(**SMALL, secret=secret)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model


def cut_here(source: Path, output: Path) -> Any:
    """`cut` with the proof in this process, where the invented classes exist."""
    with mock.patch("prune.surgery.proof.prove_in_child", prove):
        return cut(str(source), output, drop_layers=[1])


@pytest.mark.parametrize("secret", SHOWN)
def test_a_hidden_dependence_on_the_layer_is_refused_by_name(secret: str) -> None:
    old, new = (skeleton(InventedForCausalLM, InventedConfig(**SMALL | {"num_hidden_layers": n}, secret=secret))
                for n in (6, 5))  # fmt: skip
    with pytest.raises(PruneError, match=SHOWN[secret]):
        check_signatures(old, new, [0, 2, 3, 4, 5])


@pytest.mark.parametrize("secret", ["private scalar", "outside"])
def test_in_memory_it_is_refused_before_anything_changes(secret: str) -> None:
    model = invented(secret)
    with pytest.raises(PruneError, match=SHOWN[secret]):
        drop_layers(model, [1])
    assert (len(model.model.layers), model.config.num_hidden_layers) == (6, 6)


def test_on_disk_nothing_is_left_under_the_final_name(tmp_path: Path) -> None:
    invented("buffer").save_pretrained(tmp_path / "source")
    with pytest.raises(PruneError, match="decay"):
        cut_here(tmp_path / "source", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_arithmetic_inside_forward_is_caught_by_the_replay(tmp_path: Path) -> None:
    invented("arithmetic").save_pretrained(tmp_path / "source")
    with pytest.raises(PruneError, match="logits differ"):
        cut_here(tmp_path / "source", tmp_path / "out")


def test_an_unknown_family_without_a_secret_goes_through(tmp_path: Path) -> None:
    invented("none").save_pretrained(tmp_path / "source")
    assert cut_here(tmp_path / "source", tmp_path / "out").verified
