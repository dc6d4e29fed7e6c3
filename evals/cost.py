"""What a model costs: parameters, bytes, KV cache, money per token, healing, and when healing has paid for itself.

Knows nothing of how speed was measured: speeds come in as tokens per second. Assumptions: weights are priced in the
checkpoint's own dtype even where they were loaded in another; a GPU is paid by the hour whether busy or not.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from evals.errors import EvalUsageError

MILLION = 1_000_000
CACHELESS = {"linear_attention", "mamba", "mamba2", "recurrent", "conv"}
"""Layer types whose state does not grow with the context."""


@dataclass(frozen=True)
class Footprint:
    """Size of a model.

    Attributes:
        parameters: distinct parameters (a tied head counts once).
        bytes: of those in the checkpoint's dtype; quantised tensors as they are stored.
        kv_bytes_per_token: added to the KV cache by one more token, while no sliding window is full.
        layers: transformer layers.
    """

    parameters: int
    bytes: int
    kv_bytes_per_token: int
    layers: int

    def to_dict(self) -> dict[str, int]:
        """As JSON."""
        return asdict(self)


def footprint(model: Any) -> Footprint:
    """Size of a loaded model; quantised and adapted models too."""
    import torch

    stored = _dtype(model)
    parameters = total = 0
    for parameter in model.parameters():
        packed = getattr(parameter, "quant_state", None)  # bitsandbytes keeps two 4-bit weights in a byte
        count = parameter.numel() * 2 if packed is not None else parameter.numel()
        parameters += count
        wide = parameter.is_floating_point() and parameter.dtype in (torch.float32, torch.float16, torch.bfloat16)
        total += parameter.numel() * (stored.itemsize if wide else parameter.element_size())
    config = model.config.get_text_config()
    kv = kv_bytes_per_token(config, stored.itemsize)
    # modules that stand where an attention was left out say so
    silent = sum(getattr(module, "part", None) == "attn" for module in model.modules())
    kv -= kv * silent // config.num_hidden_layers
    return Footprint(parameters, total, kv, config.num_hidden_layers)


def _dtype(model: Any) -> Any:
    import torch

    named = getattr(model.config, "dtype", None)
    if isinstance(named, str):
        named = getattr(torch, named, None)
    return named or next(p.dtype for p in model.parameters() if p.is_floating_point())


def kv_bytes_per_token(config: Any, itemsize: int) -> int:
    """Bytes one token adds to the KV cache, from a text config.

    2 x KV heads x head width x bytes for every layer that keeps keys and values of its own; multi-head latent
    attention keeps one compressed vector and one rotary key instead. Linear-attention and convolution layers keep a
    fixed state and count nothing; layers that share an earlier layer's cache count nothing.
    """
    layers = config.num_hidden_layers - (getattr(config, "num_kv_shared_layers", 0) or 0)
    if kinds := getattr(config, "layer_types", None):
        layers = sum(kind not in CACHELESS for kind in kinds[:layers])
    if rank := getattr(config, "kv_lora_rank", None):
        return layers * (rank + config.qk_rope_head_dim) * itemsize
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return layers * 2 * kv_heads * width * itemsize


def cost_per_million_tokens(price_per_hour: float, tokens_per_s: float) -> float:
    """Money for a million tokens at a price per hour and a speed in tokens per second.

    Raises:
        EvalUsageError: a price below zero or a speed that is not positive.
    """
    if price_per_hour < 0 or tokens_per_s <= 0:
        raise EvalUsageError(f"price {price_per_hour} per hour at {tokens_per_s} tokens/s: both must be positive")
    return price_per_hour / 3600 / tokens_per_s * MILLION


def healing_cost(tokens: int, tokens_per_s: float, price_per_hour: float) -> float:
    """Money for training on `tokens` at a measured training speed."""
    return cost_per_million_tokens(price_per_hour, tokens_per_s) * tokens / MILLION


def break_even_tokens(healing: float, original_per_million: float, candidate_per_million: float) -> float | None:
    """Served tokens after which the candidate has earned its healing; None where it never does.

    healing / (original - candidate) per million: 0 where healing cost nothing and the candidate is cheaper.
    """
    saving = original_per_million - candidate_per_million
    return None if saving <= 0 else healing / saving * MILLION


@dataclass(frozen=True)
class Sensitivity:
    """What break-even does when one assumption moves and the others stay.

    Attributes:
        name: `healing_tokens`, `training_price` or `speedup`.
        low, high: the assumption's two values: factors of what was assumed, for `speedup` the ratio itself.
        at_low, at_high: break-even there, in served tokens; None: healing never pays.
    """

    name: str
    low: float
    high: float
    at_low: float | None
    at_high: float | None

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def break_even_sensitivity(
    healing: float, original_per_million: float, speedup: float, speedup_ends: tuple[float, float] | None, factor: float
) -> list[Sensitivity]:
    """Break-even with the healing budget and the training price divided and multiplied by `factor`, and at both ends
    of the measured speed-up.

    Args:
        healing: money that healing cost.
        original_per_million: money for a million tokens of the original.
        speedup: decode speed of the candidate over the original's.
        speedup_ends: smallest and largest measured speed-up; left out when None.
        factor: above 1.

    Raises:
        EvalUsageError: a factor of 1 or less, or a speed-up that is not positive.
    """
    if factor <= 1 or min([speedup, *(speedup_ends or ())]) <= 0:
        raise EvalUsageError(f"factor {factor} must be above 1 and speed-ups {speedup}, {speedup_ends} above 0")

    def at(cost: float, ratio: float) -> float | None:
        return break_even_tokens(cost, original_per_million, original_per_million / ratio)

    rows = [
        Sensitivity(name, 1 / factor, factor, at(healing / factor, speedup), at(healing * factor, speedup))
        for name in ("healing_tokens", "training_price")
    ]
    if speedup_ends:
        low, high = speedup_ends
        rows.append(Sensitivity("speedup", low, high, at(healing, low), at(healing, high)))
    return rows
