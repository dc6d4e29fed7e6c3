"""Which families there are, and the sizes that make each of them tiny: 8 layers, width 64, 128 tokens.

One table of sizes by field name serves all configuration classes, since the same name means the same thing almost
everywhere; a family states only what differs, and what makes its depth-dependent fields matter (a window shorter than
the prompt, a dense prefix, a sparse step). Assumption: a config class knows its own fields, so that a size is given
only to a class that has it.
"""

from __future__ import annotations

from typing import Any

from prune.surgery.families import PROVEN

DEPTH = 8
VOCABULARY = 128

SIZES: dict[str, Any] = {
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_blocks"), DEPTH),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "embedding_dim", "word_embed_proj_dim", "lru_width"), 64),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "dff", "dim_ff", "ffn_hidden_size", "intermediate_size_mlp",
                     "dense_intermediate_size"), 96),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "shared_intermediate_size",
                     "shared_experts_intermediate_size", "moe_shared_expert_intermediate_size",
                     "expert_ffn_hidden_size"), 32),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads", "linear_num_heads",
                     "linear_num_value_heads", "swa_num_attention_heads", "num_query_groups"), 4),
    **dict.fromkeys(("num_key_value_heads", "linear_num_key_heads", "swa_num_key_value_heads", "index_n_heads"), 2),
    **dict.fromkeys(("head_dim", "dim_head", "kv_channels", "attention_head_dim", "swa_head_dim", "linear_head_dim",
                     "linear_key_head_dim", "linear_value_head_dim", "index_head_dim", "v_head_dim"), 16),
    **dict.fromkeys(("qk_nope_head_dim", "qk_rope_head_dim", "rotary_dim", "d_rel"), 8),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "o_lora_rank", "router_hidden_size", "laurel_rank",
                     "hidden_size_per_layer_input", "adapter_rank", "hc_lowrank"), 16),
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"), 8),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_topk"), 2),
    **dict.fromkeys(("n_group", "topk_group", "num_expert_group"), 1),
    **dict.fromkeys(("n_shared_experts", "num_shared_experts", "moe_num_shared_experts"), 1),
    **dict.fromkeys(("first_k_dense_replace", "num_dense_layers"), 2),
    **dict.fromkeys(("sliding_window", "sliding_window_size", "local_attention", "attention_window_size",
                     "attention_chunk_size", "window_size"), 4),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "context_length",
                     "model_max_length", "rel_extent"), 64),
    **dict.fromkeys(("state_size", "mamba_d_state", "ssm_state_size", "chunk_size", "mamba_chunk_size",
                     "block_size"), 8),
    **dict.fromkeys(("time_step_rank", "mamba_dt_rank"), 4),
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input", "unpadded_vocab_size"), VOCABULARY),
    "index_topk": 64, "decoder_sparse_step": 2, "query_pre_attn_scalar": 16, "num_nextn_predict_layers": 0,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "decoder_start_token_id": 1,
    "original_max_position_embeddings": 64,
    "eod_token_id": 2, "sep_token_id": 3, "cls_token_id": 1,
}  # fmt: skip
"""Field name -> tiny value, given to every config class that has the field."""

LINEAR, FULL, SLIDING = "linear_attention", "full_attention", "sliding_attention"
MLA: dict[str, Any] = {"num_key_value_heads": 4}
"""Latent attention has as many key heads as query heads."""

SPECIAL: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        ("axk1 axk2 deepseek_v2 deepseek_v3 deepseek_v32 glm4_moe_lite glm_moe_dsa minicpm3 youtu").split(),
        MLA,
    ),
    "kimi_linear": MLA | {"layer_types": [LINEAR, FULL, LINEAR, LINEAR, LINEAR, FULL, LINEAR, FULL]},
    "bailing_hybrid": MLA | {"layer_group_size": 3},
    "bamba": {"attn_layer_indices": [1, 5], "mamba_n_heads": 8, "mamba_d_head": 16},
    "cohere_compass_text": {
        "layer_types": [SLIDING, SLIDING, SLIDING, FULL] * 2,
        "rope_parameters": {kind: {"rope_type": "default", "rope_theta": 10000.0} for kind in (SLIDING, FULL)},
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8, "rope_theta": 10000.0},
        "ffn_config": {"ffn_hidden_size": 32, "moe_top_k": 2},
    },
    "dots3_note_text": MLA
    | {
        "layer_types": ["indexed_attention", SLIDING] * 4,
        "per_layer_config": {
            i: {
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
                "q_lora_rank": 8,
                "kv_lora_rank": 8,
                "head_dim": 16,
                "qk_nope_head_dim": 8,
                "qk_rope_head_dim": 8,
                "v_head_dim": 8,
            }
            for i in (1, 3, 5, 7)
        },
    },
    "exaone4": {"sliding_window_pattern": 3},
    "gemma3n_text": {
        "num_kv_shared_layers": 2,
        "layer_types": [SLIDING, FULL, SLIDING, SLIDING, FULL, SLIDING, SLIDING, SLIDING],  # 6 and 7 read 5
        "activation_sparsity_pattern": [0.5] * 3 + [0.0] * 5,
    },
    "gemma4_unified_text": {"global_head_dim": 32, "layer_types": [SLIDING, FULL, SLIDING, FULL] * 2},
    "gemma4_text": {
        "global_head_dim": 32,
        "num_kv_shared_layers": 2,
        "layer_types": [SLIDING, FULL, SLIDING, SLIDING, SLIDING, FULL, FULL, FULL],  # 6 and 7 read 5
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 4]]},
    "granitemoehybrid": {"layer_types": [LINEAR, FULL, LINEAR, LINEAR] * 2, "mamba_n_heads": 8, "mamba_d_head": 16},
    "lfm2": {"layer_types": ["conv", FULL, "conv", "conv", FULL, "conv", FULL, "conv"]},
    "lfm2_moe": {"layer_types": ["conv", FULL, "conv", "conv", FULL, "conv", FULL, "conv"]},
    "longcat_flash": {
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 8,
        "num_layers": 8,
        "zero_expert_num": 2,
    },
    "mamba2": {"num_heads": 8, "n_groups": 2},
    "qwen4_exp_text": {
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 16,
        "indexer_budget": 64,
        "indexer_compress_ratio": 2,
        "ple_layer_ids": [6],
        "ngram_vocab_size_base": 50,
        "make_ngram_vocab_size_divisible_by": 2,
        "split_ngram_parts": 2,
        "heads_per_ngram": 2,
    },
    "rwkv": {"rescale_every": 0, "attention_hidden_size": 64},
    "falcon_h1": {"mamba_d_ssm": 128, "mamba_n_heads": 8, "mamba_d_head": 16},
    "nemotron_h": {
        "mamba_num_heads": 8,
        "mamba_head_dim": 16,
        "n_groups": 2,
        "layers_block_type": [LINEAR, "moe", FULL, "mlp", LINEAR, FULL, "moe", LINEAR],
    },
    "xlstm": {"num_heads": 4, "chunk_size": 16, "ffn_round_up_to_multiple_of": 16, "qk_dim_factor": 1.0},
    "zamba": {"layers_block_type": [LINEAR, LINEAR, "hybrid", LINEAR, LINEAR, "hybrid", LINEAR, "hybrid"]},
    "zamba2": {"layers_block_type": [LINEAR, LINEAR, "hybrid", LINEAR, LINEAR, "hybrid", LINEAR, LINEAR]},
    "zaya": {"num_experts_per_tok": 1},
}
"""What a family needs beyond `SIZES`, or instead of them."""

FAMILIES = tuple(sorted(PROVEN))
"""Every decoder-only family of transformers 5.23 that can be built small."""

ALL_BUT_LAST = ((3, 4), (0,), (1, 2, 6))
ANY = ((3, 4), (0,), (7,), (1, 2, 6))
REFUSED: dict[str, tuple[str, tuple[tuple[int, ...], ...]]] = {
    "beam": ("layer_idx", ALL_BUT_LAST),
    "diffllama": ("lambda_init", ALL_BUT_LAST),
    "gemma4_unified_text": ("layer_types", ((7,),)),
    "gpt_neox_japanese": ("dense_bias", ((7,),)),
    "hrm_text": ("num_layers_per_stack", ANY),
    "inkling2_text": ("n_layers_per_attn_res_block", ANY),
    "jamba": ("layer_types|expert_layer_period", ((3, 4), (1, 2, 6))),
    "minimax": ("layer_types", ((0,),)),
    "modernbert-decoder": ("attn_norm", ((0,),)),
    "rwkv": ("pre_ln", ((0,),)),
    "zamba2": ("layers_block_type", ((1, 2, 6),)),
    "zaya": ("router_states_scale", ((0,),)),
}
"""What cannot be expressed: family -> (what the refusal must name, the removals it is about). All else is exact."""
