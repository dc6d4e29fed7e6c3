"""Types and ranges of config.json, checked once where it enters, so that no later reader meets a surprise.

Only fields that this program, or the building of a model, counts with are checked; families name many others. What is
refused here would otherwise be a traceback, or a model of 10^30 layers that takes for ever to build.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from prune.checkpoint.depth_fields import (
    DEPTH,
    INDEX_LISTS,
    MOST_LAYERS,
    MTP_COUNTS,
    NESTED,
    PER_LAYER,
    PREFIX_COUNTS,
    SUFFIX_COUNTS,
    depth_of,
    text_part,
)
from prune.errors import PruneError

MOST = 1 << 31
LAYER = re.compile(r"[0-9]{1,6}")  # transformers pads these: "05"
SIZES = ("hidden_size", "n_embd", "d_model", "vocab_size", "num_attention_heads", "n_head", "num_key_value_heads")
INTERVALS = (
    "decoder_sparse_step", "full_attention_interval", "no_rope_layer_interval", "attn_layer_period",
    "expert_layer_period", "moe_layer_interval",
)  # fmt: skip
NUMBERS = ("max_window_layers", "attn_layer_offset", "expert_layer_offset", "moe_layer_start_index")
OBJECTS = ("linear_attn_config", "quantization_config", "rope_scaling", "rope_parameters")
TEXTS = ("layer_types", "mlp_layer_types", "layers_block_type", "attention_layers", "indexer_types", "block_types")


def _integer(low: int, high: int = MOST) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and low <= value <= high


def _list_of(allowed: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(allowed, value))


def _size(value: Any) -> bool:
    return _integer(1)(value) or _list_of(_integer(0))(value)


def _texts(value: Any) -> bool:
    return isinstance(value, str) or _list_of(lambda item: isinstance(item, str))(value)


def _scalars(value: Any) -> bool:
    return not isinstance(value, dict) and not (
        isinstance(value, list) and any(isinstance(item, dict | list) for item in value)
    )


def _layer_table(value: Any) -> bool:
    return isinstance(value, dict) and all(
        LAYER.fullmatch(key) and isinstance(item, dict) for key, item in value.items()
    )


def _object(value: Any) -> bool:
    return isinstance(value, dict)


_layers = _list_of(_integer(0, MOST_LAYERS))
RULES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(PER_LAYER, (_scalars, "a list of plain values")),
    **dict.fromkeys(TEXTS, (_texts, "a list of names")),
    **dict.fromkeys(DEPTH, (_integer(1, MOST_LAYERS), f"an integer from 1 to {MOST_LAYERS}")),
    **dict.fromkeys(SIZES, (_size, f"an integer from 1 to {MOST}")),
    **dict.fromkeys(INTERVALS, (_integer(1), "an integer of at least 1")),
    **dict.fromkeys(NUMBERS, (_integer(0), "an integer of at least 0")),
    **dict.fromkeys((*PREFIX_COUNTS, *SUFFIX_COUNTS, *MTP_COUNTS), (_integer(0, MOST_LAYERS), "a number of layers")),
    **dict.fromkeys((*INDEX_LISTS, "ple_layer_ids", "kda_layers", "full_attn_layers"), (_layers, "a list of layers")),
    **dict.fromkeys((*NESTED, *OBJECTS), (_object, "a JSON object")),
    "per_layer_config": (_layer_table, "a JSON object whose keys are layer numbers"),
    "architectures": (_list_of(lambda item: isinstance(item, str)), "a list of class names"),
    "model_type": (lambda value: isinstance(value, str), "a name"),
}
"""Field -> (what is allowed besides null, and how it is called)."""


OTHER_HEADS = ("MaskedLM", "Classification", "QuestionAnswering", "PreTraining", "Seq2SeqLM", "CTC", "Embedding")
"""Parts of the names of classes that are no causal language models."""


QUANTISED = frozenset(
    "bitsandbytes bitsandbytes_4bit bitsandbytes_8bit fp8 fbgemm_fp8 compressed-tensors gptq awq mxfp4 hqq auto-round"
    " torchao quanto modelopt".split()
)
"""Methods of quantisation whose files are understood; transformers takes others as if they were not quantised."""


def check_method(quantization: dict[str, Any]) -> None:
    """Refuse a quantisation that nobody here understands.

    Raises:
        PruneError: the method.
    """
    method = str(quantization.get("quant_method", "bitsandbytes"))
    if method not in QUANTISED:
        known = ", ".join(sorted(QUANTISED))
        raise PruneError(
            f"config.json: quantization_config.quant_method {method[:40]!r} is not known; use one of {known}"
        )


def check_decoder(config: dict[str, Any]) -> None:
    """Refuse a config.json that is not a causal, decoder-only language model's, in numbers that can be read.

    Raises:
        PruneError: no model_type, an encoder-decoder, a head that is not causal, or an unknown quantisation.
    """
    kind = config.get("model_type")
    if not isinstance(kind, str):
        raise PruneError("config.json: model_type is missing; give a transformers checkpoint")
    if config.get("is_encoder_decoder"):
        raise PruneError(f"config.json: is_encoder_decoder: {kind} is an encoder-decoder; give a decoder-only model")
    for head in config.get("architectures") or []:
        if any(mark in str(head) for mark in OTHER_HEADS):
            raise PruneError(f"config.json: architectures: {head} is no causal language model")
    for part in (config, text_part(config)):
        if part.get("quantization_config") is not None:
            check_method(part["quantization_config"])


def check_types(config: dict[str, Any]) -> None:
    """Refuse a parsed config.json whose fields have a wrong type or are out of range.

    Raises:
        PruneError: the first such field.
    """
    text = text_part(config)
    parts = [config] if text is config else [config, text]
    for part in [*parts, *(p["linear_attn_config"] for p in parts if isinstance(p.get("linear_attn_config"), dict))]:
        for name, (allowed, what) in RULES.items():
            value = part.get(name)
            if value is not None and not allowed(value):
                shown = json.dumps(value)
                shown = shown if len(shown) <= 40 else shown[:37] + "..."
                raise PruneError(f"config.json: {name} is {shown}; it must be {what}")
    if any(name in text and text[name] is None for name in DEPTH):
        depth_of(config)  # null is allowed where another field states the depth
