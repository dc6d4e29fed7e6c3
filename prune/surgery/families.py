"""What only one family does with its depth: removals that no stock config can express, and patterns of its own.

Every rule reads the text part of a config.json and either edits it in place or refuses with the field's name. Fields
that mean the same everywhere are handled in `config_fields`; a rule here exists because the family computes something
from a layer's number that no list in its config can state. Assumption: the proof stands behind these rules, so that a
missing one costs a late refusal, never a wrong checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from prune.errors import PruneError

PROVEN = frozenset(
    (
        "afmoe apertus arcee aria_text axk1 axk2 bailing_hybrid bamba beam biogpt bitnet bloom codegen cohere "
        "cohere2 cohere2_moe cohere_compass_text cpmant ctrl cwm dbrx deepseek_v2 deepseek_v3 deepseek_v32 "
        "deepseek_v4 diffllama doge dots1 dots3_note_text ernie4_5 ernie4_5_moe exaone4 exaone_moe falcon "
        "falcon_h1 falcon_mamba flex_olmo flint gemma gemma2 gemma3_text gemma3n_text gemma4_text "
        "gemma4_unified_text glm glm4 glm4_moe glm4_moe_lite glm_moe_dsa gpt2 gpt_bigcode gpt_neo gpt_neox "
        "gpt_neox_japanese gpt_oss gptj granite granite_swa granitemoe granitemoe_swa granitemoehybrid "
        "granitemoeshared helium hrm_text hunyuan_v1_dense hunyuan_v1_moe hy_v3 hy_v4 hyperclovax inkling2_text "
        "inkling_text internlm3 iquestcoder jais2 jamba jetmoe kimi_linear kolibri1 laguna lfm2 lfm2_moe lfm3 "
        "llama llama4_text longcat_flash mamba mamba2 mellum mimo_v2_flash minicpm3 minimax minimax_m2 "
        "minimax_m3_vl_text ministral ministral3 mistral mixtral modernbert-decoder mpt nanochat nemotron "
        "nemotron_h olmo olmo2 olmo3 olmo_hybrid olmoe openai-gpt opt persimmon phi phi3 phimoe qwen2 qwen2_moe "
        "qwen3 qwen3_5_moe_text qwen3_5_text qwen3_moe qwen3_next qwen4_exp_text recurrent_gemma rwkv seed_oss "
        "smollm3 solar_open stablelm starcoder2 vaultgemma xglm xlstm youtu zamba zamba2 zaya"
    ).split()
)
"""Families whose every removal was compared with the original (tests/zoo); for others the logits are replayed."""

NEVER = {
    "inkling2_text": "n_layers_per_attn_res_block: layer_idx selects residual blocks, and disk names are offset by one",
    "hrm_text": "num_layers_per_stack: two recurrent stacks share one depth",
}
"""No removal at all has a stock representation."""
ONLY_LAST = {
    "diffllama": "lambda_init depends on the layer's number",
    "beam": "the residual is scaled by 1/sqrt(2(layer_idx + 1))",
}
"""Only layers at the end can go: every other layer would change its number, and with it a constant."""
FIRST_STAYS = {
    "rwkv": "layer 0 holds the input normalisation (pre_ln)",
    "modernbert-decoder": "layer 0 has no attention norm (attn_norm)",
    "zaya": "layer 0's router has no router_states_scale",
}
LAST_STAYS = {"gpt_neox_japanese": "only the last layer's attention has a bias (dense_bias)"}
SPARSE_STEP = ("qwen2_moe", "qwen3_moe", "qwen3_next", "flint")


def refuse_removal(text: dict[str, Any], kind: str, n: int, keep: Sequence[int], types: Sequence[str]) -> None:
    """Refuse a removal that the family cannot express.

    Args:
        text: the text part of config.json.
        kind: model_type.
        n: depth.
        keep: sorted source indices that stay.
        types: the kind of token mixer of every layer, empty if all are alike.

    Raises:
        PruneError: with the field and the reason.
    """
    moved = any(old != new for new, old in enumerate(keep))
    if kind in NEVER:
        raise PruneError(f"config.json: {kind} cannot be cut: {NEVER[kind]}")
    if kind in ONLY_LAST and moved:
        raise PruneError(f"config.json: {kind}: {ONLY_LAST[kind]}; only layers at the end can go")
    if text.get("scale_attn_by_inverse_layer_idx") and moved:
        raise PruneError("config.json: scale_attn_by_inverse_layer_idx: only layers at the end can go")
    if kind in FIRST_STAYS and 0 not in keep:
        raise PruneError(f"config.json: {kind}: {FIRST_STAYS[kind]}; keep layer 0 (layer_idx 0 is special)")
    if kind in LAST_STAYS and n - 1 not in keep:
        raise PruneError(f"config.json: {kind}: {LAST_STAYS[kind]}; keep layer {n - 1}")
    _refuse_types(text, kind, keep, types)
    _refuse_shared(text, kind, n, keep, types)


def _refuse_types(text: dict[str, Any], kind: str, keep: Sequence[int], types: Sequence[str]) -> None:
    """Families that demand a certain kind of layer first or last."""
    if kind in ("gemma4_text", "gemma4_unified_text") and types and types[keep[-1]] != "full_attention":
        raise PruneError(
            f"config.json: layer_types: {kind} makes the last layer full_attention, but layer {keep[-1]} is"
            f" {types[keep[-1]]}; end on a full_attention layer"
        )
    if kind == "minimax" and types and types[0] == "full_attention" != types[keep[0]]:
        raise PruneError(
            "config.json: layer_types: minimax reads its cache's length from the first layer, and generates wrongly"
            f" when that is {types[keep[0]]}; keep a full_attention layer in front"
        )


def _refuse_shared(text: dict[str, Any], kind: str, n: int, keep: Sequence[int], types: Sequence[str]) -> None:
    """Layers that other layers depend on."""
    shared = text.get("num_kv_shared_layers") or 0
    if shared and len(types) == n:
        own, readers = types[: n - shared], {types[i] for i in keep if i >= n - shared}
        sources = {max(i for i, t in enumerate(own) if t == name) for name in readers & set(own)}
        gone = sorted(sources - set(keep))
        if gone:
            raise PruneError(f"config.json: num_kv_shared_layers: later layers read layer {gone[0]}'s keys; keep it")
    for index in text.get("ple_layer_ids") or []:
        if index - 1 not in keep:
            raise PruneError(f"config.json: ple_layer_ids: layer {index - 1} owns an n-gram table; keep it")
    if kind == "zamba" and sum(types[i] == "hybrid" for i in keep if i < len(types)) == 1:
        raise PruneError("config.json: layers_block_type: zamba does not load with a single hybrid layer; keep two")
    if kind == "zamba2":
        hybrid = [i for i, name in enumerate(types) if name == "hybrid"]
        gone = [i for i in hybrid if i not in keep]
        if gone:
            raise PruneError(
                f"config.json: layers_block_type: layer {gone[0]} is hybrid; the shared transformers and their adapters"
                " are chosen by position among the hybrid layers; drop linear_attention layers only"
            )
    indexers = text.get("indexer_types") or []
    if len(indexers) == n and indexers[keep[0]] == "shared":
        raise PruneError(f"config.json: indexer_types: layer {keep[0]} reads an earlier layer's top-k; keep a full one")


def edit_family(text: dict[str, Any], kind: str, n: int, keep: Sequence[int], new_index: dict[int, int]) -> None:
    """Apply the family's own rule, if it has one.

    Raises:
        PruneError: the kept layers follow no pattern that the family can state.
    """
    rule = RULES.get(kind)
    if rule is not None:
        rule(text, n, keep, new_index)


def _sparse_step(text: dict[str, Any], n: int, keep: Sequence[int], new_index: dict[int, int]) -> None:
    """`decoder_sparse_step` as an explicit list of dense layers: always expressible."""
    step, experts = text.get("decoder_sparse_step", 1), text.get("num_experts", 1)
    dense = set(text.get("mlp_only_layers") or [])  # already renumbered
    if experts and step != 1:
        dense |= {new_index[i] for i in keep if (i + 1) % step != 0}
        text["decoder_sparse_step"] = 1
        text["mlp_only_layers"] = sorted(dense)


def _jamba(text: dict[str, Any], n: int, keep: Sequence[int], new_index: dict[int, int]) -> None:
    """Jamba states two patterns, each only as (period, offset): find values that give the kept layers, or refuse."""
    for part, default in (("attn_layer", (8, 4)), ("expert_layer", (2, 1))):
        names = (f"{part}_period", f"{part}_offset")
        period, offset = (text.get(name, value) for name, value in zip(names, default, strict=True))
        wanted = [i % period == offset for i in keep]
        trials = [(period, offset), *((p, o) for p in range(1, len(keep) + 2) for o in range(p))]
        for trial in trials:
            if [i % trial[0] == trial[1] for i in range(len(keep))] == wanted:
                if trial != (period, offset):
                    text.update(zip(names, trial, strict=True))
                break
        else:
            raise PruneError(f"config.json: {names[0]}: the kept layers follow no (period, offset); drop whole periods")


def _ernie_moe(text: dict[str, Any], n: int, keep: Sequence[int], new_index: dict[int, int]) -> None:
    """Ernie 4.5 MoE states (start, end, interval): find values that give the kept layers, or refuse."""
    names = ("moe_layer_start_index", "moe_layer_end_index", "moe_layer_interval")
    start, end, interval = (text.get(name, default) for name, default in zip(names, (1, -1, 1), strict=True))
    end = n - 1 if end == -1 else end

    def pattern(depth: int, first: int, last: int, every: int) -> list[bool]:
        return [(i + 1) % every == 0 and first <= i <= last for i in range(depth)]

    old, depth = pattern(n, start, end, interval), len(keep)
    wanted = [old[i] for i in keep]
    for every in (interval, *range(1, depth + 1)):
        for first in (start, *range(depth)):
            for last in (depth - 1, *range(depth)):
                if pattern(depth, first, last, every) == wanted:
                    text.update(zip(names, (first, last, every), strict=True))
                    return
    raise PruneError("config.json: moe_layer_interval: the kept layers follow no (start, end, interval)")


def _gpt_neo(text: dict[str, Any], n: int, keep: Sequence[int], new_index: dict[int, int]) -> None:
    """Groups of attention types, one group a layer."""
    groups = text.get("attention_types") or [[["global", "local"], 12]]
    flat = [name for names, times in groups for _ in range(times) for name in names]
    if len(flat) != n:
        raise PruneError(f"config.json: attention_types describes {len(flat)} layers, not {n}")
    text["attention_types"] = [[[flat[i]], 1] for i in keep]


def _recurrent_gemma(text: dict[str, Any], n: int, keep: Sequence[int], new_index: dict[int, int]) -> None:
    """A cycle of block types, written out."""
    cycle = text.get("block_types") or ["recurrent", "recurrent", "attention"]
    text["block_types"] = [cycle[i % len(cycle)] for i in keep]


def _minicpm3(text: dict[str, Any], n: int, keep: Sequence[int], new_index: dict[int, int]) -> None:
    """The residual is scaled by scale_depth / sqrt(depth)."""
    text["scale_depth"] = text.get("scale_depth", 1.4) * math.sqrt(len(keep) / n)


def _longcat(text: dict[str, Any], n: int, keep: Sequence[int], new_index: dict[int, int]) -> None:
    """Each layer holds two attention sub-layers, which the derived num_hidden_layers counts."""
    if text.get("num_hidden_layers") == 2 * n:
        text["num_hidden_layers"] = 2 * len(keep)


Rule = Callable[[dict[str, Any], int, Sequence[int], dict[int, int]], None]
RULES: dict[str, Rule] = dict.fromkeys(SPARSE_STEP, _sparse_step) | {
    "jamba": _jamba,
    "ernie4_5_moe": _ernie_moe,
    "gpt_neo": _gpt_neo,
    "recurrent_gemma": _recurrent_gemma,
    "minicpm3": _minicpm3,
    "longcat_flash": _longcat,
}
