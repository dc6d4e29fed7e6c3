"""A tiny model of a family, with random weights large enough that every layer, window and gate shows in the logits."""

from __future__ import annotations

from typing import Any

import torch

from zoo.families import SIZES, SPECIAL


def tiny_config(family: str) -> Any:
    """The family's config object with tiny sizes."""
    from transformers import CONFIG_MAPPING

    kind = CONFIG_MAPPING[family]
    fields = {name: value for name, value in SIZES.items() if knows(kind, name)}
    return kind(**(fields | SPECIAL.get(family, {})))


def knows(kind: Any, name: str) -> bool:
    """Whether a config class states a field under this name, and not a second time under the one it is an alias of."""
    fields = getattr(kind, "__dataclass_fields__", {})
    return name in fields and kind.attribute_map.get(name) not in fields


def tiny_model(family: str, seed: int = 0) -> Any:
    """The family's causal language model with eager attention, in float32 and eval mode."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(tiny_config(family), attn_implementation="eager", dtype=torch.float32)
    randomise(model)
    return model.eval()


@torch.no_grad()
def randomise(model: torch.nn.Module) -> None:
    """Matrices get unit gain, so that no layer is negligible; vectors are shaken, so that no two layers are alike."""
    for parameter in model.parameters():
        if parameter.dim() >= 2:
            parameter.normal_(std=parameter.shape[-1] ** -0.5)
        else:
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
