"""The registry of families: what only one family does with its depth, one line each.

A family of which more than a reason or a pattern must be said has a file here, and its line names that. Families
without a line are asked through their config class, and families outside `PROVEN` are replayed. Assumption: the proof
stands behind these rules, so that a missing one costs a late refusal, never a wrong checkpoint; a family with
`derives` has no depth-dependent state beyond those lists and `prune.checkpoint.depth_fields`.
"""

from __future__ import annotations

from prune.surgery.families import (
    ernie4_5_moe,
    gpt2,
    gpt_neo,
    jamba,
    kimi_linear,
    kv_sharing,
    longcat_flash,
    minicpm3,
    minimax,
    qwen4_exp,
    recurrent_gemma,
    smollm3,
    sparse_step,
    zamba,
)
from prune.surgery.families.patterns import alike, every, periodic, window_from
from prune.surgery.families.proven import PROVEN
from prune.surgery.families.rule import Family, Removal

ALIKE = (
    "llama mistral mixtral phi phi3 gemma olmo olmo2 olmoe gpt_neox gptj granite granitemoe starcoder2 stablelm"
    " falcon opt bloom mpt cohere nemotron deepseek_v2 deepseek_v3 glm glm4 glm4_moe apertus arcee"
).split()
"""Families whose layers are all alike."""
LLAMA_SHAPED = ("llama", "mistral")
"""Families whose layers a DeciLM directory can state."""
BLOCKS = "layer_idx selects residual blocks, and disk names are offset by one"
EXPERTS = frozenset(("num_experts", "moe_topk", "moe_intermediate_size", "num_shared_expert"))
ONE_PART = {"attn": ("full_attention", "linear_attention"), "mlp": ("mlp", "moe")}
FAMILIES: dict[str, Family] = dict.fromkeys(ALIKE, Family(derives=alike)) | {
    "beam": Family(only_last="the residual is scaled by 1/sqrt(2(layer_idx + 1))"),
    "cohere2": Family(derives=periodic("sliding_window_pattern", 4, "sliding_attention")),
    "diffllama": Family(only_last="lambda_init depends on the layer's number"),
    "ernie4_5_moe": ernie4_5_moe.FAMILY,
    "flint": Family(edit=sparse_step.edit),
    "gemma2": Family(derives=every(2, "sliding_attention")),
    "gemma3_text": Family(derives=periodic("sliding_window_pattern", 6, "sliding_attention")),
    "gemma3n_text": kv_sharing.GEMMA3N,
    "gemma4_text": kv_sharing.GEMMA4,
    "gemma4_unified_text": kv_sharing.GEMMA4,
    "glm5_next_text": kimi_linear.FAMILY,
    "gpt2": gpt2.FAMILY,
    "gpt_neo": gpt_neo.FAMILY,
    "gpt_neox_japanese": Family(last_stays="only the last layer's attention has a bias (dense_bias)"),
    "gpt_oss": Family(derives=every(2, "sliding_attention")),
    "hrm_text": Family(never="num_layers_per_stack: two recurrent stacks share one depth"),
    "hunyuan_v1_moe": Family(per_layer=EXPERTS),
    "inkling2_text": Family(never=f"n_layers_per_attn_res_block: {BLOCKS}"),
    "jamba": jamba.FAMILY,
    "kimi_linear": kimi_linear.FAMILY,
    "longcat_flash": longcat_flash.FAMILY,
    "minicpm3": minicpm3.FAMILY,
    "minimax": minimax.FAMILY,
    "mistral_large4_text": kv_sharing.MISTRAL_LARGE4,
    "modernbert-decoder": Family(first_stays="layer 0 has no attention norm (attn_norm)"),
    "nemotron_h": Family(sublayers=ONE_PART),
    "olmo3": Family(derives=every(4, "sliding_attention")),
    "qwen2": Family(derives=window_from),
    "qwen2_moe": Family(edit=sparse_step.edit),
    "qwen3": Family(derives=window_from),
    "qwen3_moe": Family(derives=alike, edit=sparse_step.edit),
    "qwen3_next": Family(derives=periodic("full_attention_interval", 4, "linear_attention"), edit=sparse_step.edit),
    "qwen4_exp_text": qwen4_exp.FAMILY,
    "recurrent_gemma": recurrent_gemma.FAMILY,
    "rwkv": Family(first_stays="layer 0 holds the input normalisation (pre_ln)"),
    "smollm3": smollm3.FAMILY,
    "zamba": zamba.ZAMBA,
    "zamba2": zamba.ZAMBA2,
    "zaya": Family(first_stays="layer 0's router has no router_states_scale"),
}
KNOWN = {kind: family.derives for kind, family in FAMILIES.items() if family.derives is not None}
"""Families whose derived lists are known here, so that a cut needs no config class (and may go without the proof)."""


def family_of(kind: str) -> Family:
    """What is known of a model_type; nothing in particular of most."""
    return FAMILIES.get(kind, Family())


__all__ = ["FAMILIES", "KNOWN", "PROVEN", "Family", "Removal", "family_of"]
