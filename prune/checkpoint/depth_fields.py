"""The one table of config fields that depend on the number of layers, and the depth that a config states.

What a field means for every family stands here; what one family alone does stands in `prune.surgery.families`.
"""

from __future__ import annotations

from typing import Any

from prune.errors import PruneError

DEPTH = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_blocks")
MOST_LAYERS = 10_000  # a bound against configs that would fill the memory with numbers
NESTED = ("text_config", "llm_config", "language_config")
PER_LAYER = frozenset(
    "layer_types mlp_layer_types layers_block_type attention_layers no_rope_layers activation_sparsity_pattern"
    " indexer_types num_attention_heads_per_layer layer_rope_theta moe_layer_freq hybrid_layer_pattern compress_ratios"
    " num_key_value_heads_per_layer hybrid_override_pattern index_topk_pattern attn_type_list layer_pattern".split()
)
NOT_PER_LAYER = frozenset(
    "time_step_limit mlp_multipliers ssm_multipliers eos_token_id bos_token_id pad_token_id architectures block_types"
    " prefix_dense_sliding_window_pattern mtp_layer_types mtp_mlp_layer_types mtp_layers_block_type"
    " keys_to_ignore_at_inference bad_words_ids suppress_tokens attention_types".split()
)
INDEX_LISTS = frozenset(
    "mlp_only_layers moe_layers full_attn_idxs attn_layer_indices hybrid_layer_ids cross_attention_layers"
    " local_layer_ids".split()
)
PREFIX_COUNTS = ("first_k_dense_replace", "num_dense_layers", "num_hash_layers")
SUFFIX_COUNTS = ("num_kv_shared_layers",)
MTP_COUNTS = ("num_nextn_predict_layers", "num_mtp_layers", "mtp_num_hidden_layers")
LENGTHS = ("layers_block_type", "hybrid_override_pattern", "layer_types")
"""Per-layer fields whose length is the depth of a config that states no number."""


def text_part(config: dict[str, Any]) -> dict[str, Any]:
    """The (sub-)dictionary that describes the text decoder; a reference into `config`."""
    for name in NESTED:
        if isinstance(config.get(name), dict):
            return config[name]
    return config


def model_kind(config: dict[str, Any]) -> str:
    """The model_type of the text decoder."""
    return str(text_part(config).get("model_type") or config.get("model_type"))


def depth_of(config: dict[str, Any]) -> int:
    """Number of decoder layers that a config.json states.

    Raises:
        PruneError: no such field, or not a positive integer.
    """
    text = text_part(config)
    for name in DEPTH:
        value = text.get(name)
        if value is not None:
            if type(value) is not int or not 1 <= value <= MOST_LAYERS:
                raise PruneError(
                    f"config.json: {name} is {str(value)[:40]}; it must be an integer from 1 to {MOST_LAYERS}"
                )
            return value
    for name in LENGTHS:
        if isinstance(text.get(name), list | str) and text[name]:
            return len(text[name])
    raise PruneError(f"config.json: no depth field ({', '.join(DEPTH)}) for model_type {config.get('model_type')!r}")


def mtp_layers(text: dict[str, Any]) -> int:
    """Multi-token-prediction layers that a config's text part announces beyond its depth."""
    return next((text[name] for name in MTP_COUNTS if isinstance(text.get(name), int) and text[name] > 0), 0)
