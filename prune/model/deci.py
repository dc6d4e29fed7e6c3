"""A DeciLM directory that `prune cut` wrote, as a model in memory: Llama with some attentions and MLPs silent.

transformers has no such architecture without custom code; what this tool writes is Llama but for the sub-layers that
`block_configs` leaves out, so that is how it is loaded, every tensor accounted for. Directories of other origin, whose
blocks differ in width or are replaced by linear maps, are refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prune.checkpoint.source import Source
from prune.errors import PruneError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

KIND = "nemotron-nas"
MULTIPLE = 256
"""Widths of an MLP are rounded up to a multiple of this."""


def ffn_width(multiplier: float, hidden: int) -> int:
    """The width of an MLP that every reader takes from `ffn_mult`."""
    width = int(2 * multiplier * hidden / 3)
    return width + -width % MULTIPLE


def llama_config(config: dict[str, Any], name: str) -> dict[str, Any]:
    """The Llama config of a DeciLM one.

    Raises:
        PruneError: blocks of different widths, linear ones, or not as many as layers.
    """
    blocks = config.get("block_configs")
    try:
        attention = [block["attention"] for block in blocks or ()]
        ffn = [block["ffn"] for block in blocks or ()]
        groups = {block["n_heads_in_group"] for block in attention if not block["no_op"]}
        widths = {ffn_width(block["ffn_mult"], config["hidden_size"]) for block in ffn if not block["no_op"]}
        linear = any(block.get("replace_with_linear") for block in (*attention, *ffn))
        fits = len(attention) == config["num_hidden_layers"] and len(groups) == 1 and len(widths) <= 1
    except (KeyError, TypeError, AttributeError):
        raise PruneError(f"{name}: config.json: block_configs is not a list of attention and ffn blocks") from None
    if linear or not fits:
        raise PruneError(
            f"{name}: config.json: block_configs has blocks of different widths, linear ones, or another number than"
            " layers; only what `prune cut --runtime mlx` writes is read"
        )
    left = {k: v for k, v in config.items() if k not in ("model_type", "architectures", "auto_map")}
    (group,) = groups
    return left | {
        "num_key_value_heads": config["num_attention_heads"] // group,
        "intermediate_size": next(iter(widths), MULTIPLE),
    }


def silent_parts(config: dict[str, Any]) -> tuple[list[int], list[int]]:
    """Layers without attention, and without an MLP, of a DeciLM config that `llama_config` takes."""
    blocks = config["block_configs"]
    attn, mlp = ([i for i, block in enumerate(blocks) if block[part]["no_op"]] for part in ("attention", "ffn"))
    return attn, mlp


def build_deci(source: Source, attention: str | None = None) -> PreTrainedModel:
    """The model of a DeciLM directory before its weights are read.

    Args:
        attention: how it is computed, by transformers' names; its own choice if None.

    Raises:
        PruneError: a config that is not ours.
    """
    from torch import nn
    from transformers import LlamaConfig, LlamaForCausalLM

    from prune.model.silence import Silent

    config = source.checkpoint.config
    model = LlamaForCausalLM(LlamaConfig(**llama_config(config, source.id)))
    if attention is not None:
        model.set_attn_implementation(attention)
    attn, mlp = silent_parts(config)
    for layer in map(model.model.layers.__getitem__, attn):
        layer.self_attn, layer.input_layernorm = Silent(layer.self_attn, "attn", 2), nn.Identity()
    for layer in map(model.model.layers.__getitem__, mlp):
        layer.mlp, layer.post_attention_layernorm = Silent(layer.mlp, "mlp", None), nn.Identity()
    return model


def load_deci(source: Source, dtype: torch.dtype | str, attention: str | None = None) -> PreTrainedModel:
    """The model of a DeciLM directory.

    Args:
        attention: see `build_deci`.

    Raises:
        PruneError: a config that is not ours, or tensors missing, unexpected or of another shape.
    """
    import torch
    from safetensors.torch import load_file

    config = source.checkpoint.config
    if dtype == "auto":
        dtype = getattr(torch, str(config.get("dtype") or config.get("torch_dtype")), torch.bfloat16)
    model = build_deci(source, attention)
    tensors: dict[str, torch.Tensor] = {}
    for path in dict.fromkeys(tensor.path for tensor in source.checkpoint.tensors.values()):
        tensors |= load_file(path)
    try:
        found = model.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise PruneError(f"{source.id}: {' '.join(str(error).split())[:300]}") from None
    tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    wrong = sorted({*found.missing_keys, *found.unexpected_keys} - tied)
    if wrong:
        raise PruneError(f"{source.id}: {wrong[0]}: block_configs of config.json and the weights disagree")
    return model.to(dtype)  # type: ignore[arg-type]
