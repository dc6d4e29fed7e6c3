"""config.json for fewer layers: a pure transform that edits only what depth requires, or refuses with the field's name.

The original's own keys, values and order stay, so that older runtimes still read the result. Assumptions: layers are
numbered 0..n-1 and renumbered without gaps; a list known to be per layer is filtered by index, never by its tail; a
pattern that the shallower model would derive differently is written out as an explicit list.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from prune.errors import PruneError
from prune.surgery.derived import Lists, Resolver, fixed_lists, follows_depth, from_class, resolver_for
from prune.surgery.families import NEVER, edit_family, refuse_removal
from prune.surgery.quantization import edit_quantization

DEPTH = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_blocks")
MOST_LAYERS = 10_000  # a bound against configs that would fill the memory with numbers
NESTED = ("text_config", "llm_config", "language_config")
PER_LAYER = frozenset(
    "layer_types mlp_layer_types layers_block_type attention_layers no_rope_layers activation_sparsity_pattern"
    " indexer_types num_attention_heads_per_layer layer_rope_theta moe_layer_freq hybrid_layer_pattern compress_ratios"
    " num_experts moe_topk moe_intermediate_size num_shared_expert intermediate_size num_key_value_heads_per_layer"
    " hybrid_override_pattern index_topk_pattern attn_type_list layer_pattern".split()
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
RECURRENT = frozenset(("linear_attention", "recurrent", "mamba", "mamba2", "conv", "moe", "mlp"))
"""Kinds of layer that keep no key-value cache, so that a hybrid of them alone has no cache length."""


def text_part(config: dict[str, Any]) -> dict[str, Any]:
    """The (sub-)dictionary that describes the text decoder; a reference into `config`."""
    for name in NESTED:
        if isinstance(config.get(name), dict):
            return config[name]
    return config


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


def check_causal(config: dict[str, Any]) -> None:
    """Refuse what is not a decoder-only language model, or is one that no cut can express.

    Raises:
        PruneError: encoder-decoder, no model_type, a head that is not causal, or a family without stock depth.
    """
    kind, heads = config.get("model_type"), config.get("architectures") or []
    if not isinstance(kind, str) or not isinstance(heads, list):
        raise PruneError("config.json: model_type is missing; only transformers checkpoints can be cut")
    if config.get("is_encoder_decoder"):
        raise PruneError(f"config.json: is_encoder_decoder: {kind} is an encoder-decoder; only decoders can be cut")
    if (name := str(text_part(config).get("model_type") or kind)) in NEVER:
        raise PruneError(f"config.json: {name} cannot be cut: {NEVER[name]}")
    wrong = ("MaskedLM", "Classification", "QuestionAnswering", "PreTraining", "Seq2SeqLM", "CTC", "Embedding")
    for head in heads:
        if any(mark in str(head) for mark in wrong):
            raise PruneError(f"config.json: architectures: {head} is no causal language model")


def edit_config(config: dict[str, Any], keep: Sequence[int], *, resolve: Resolver | None = None) -> dict[str, Any]:
    """The config of the model whose layers are `keep`, in that order.

    Args:
        config: parsed config.json (untouched).
        keep: sorted source indices.
        resolve: what derives per-layer lists; the family's known rule, else its config class.

    Raises:
        PruneError: a field has the wrong length, or the result cannot be expressed (the field is named).
    """
    edited = copy.deepcopy(config)
    text = text_part(edited)
    n, kind = depth_of(edited), str(text.get("model_type") or edited.get("model_type"))
    new_index = {old: new for new, old in enumerate(keep)}
    resolve = resolve or resolver_for(kind)
    before = _resolved(text, n, resolve)
    fixed = fixed_lists(text) if resolve is from_class else {}
    types = next((v for v in map((before | fixed).get, ("layer_types", "layers_block_type")) if v), [])
    refuse_removal(text, kind, n, keep, types)
    _keep_one_attention(types, keep)
    _set_depth(text, n, len(keep))
    _edit_fields(text, n, keep, new_index)
    edit_family(text, kind, n, keep, new_index)
    _make_explicit(text, kind, n, keep, new_index, before, resolve)
    if fixed:
        _check_fixed(text, kind, keep, fixed, types)
    for part in {id(edited): edited, id(text): text}.values():
        if isinstance(part.get("quantization_config"), dict):
            edit_quantization(part["quantization_config"], n, new_index)
    return edited


def _set_depth(text: dict[str, Any], n: int, n_new: int) -> None:
    """Every depth field that states the old depth states the new one."""
    for name in DEPTH:
        if text.get(name) == n:
            text[name] = n_new


def _edit_fields(text: dict[str, Any], n: int, keep: Sequence[int], new_index: dict[int, int]) -> None:
    """Fields whose meaning does not depend on the family."""
    mtp = next((text[name] for name in MTP_COUNTS if isinstance(text.get(name), int)), 0)
    for name, value in list(text.items()):
        if name in INDEX_LISTS and isinstance(value, list):
            text[name] = _remap(name, value, n, new_index)
        elif isinstance(value, list | str) and (name in PER_LAYER):
            if isinstance(value, str) and len(value) != n:
                raise PruneError(f"config.json: {name} has {len(value)} characters for {n} layers")
            text[name] = _filter(name, value, n, mtp, keep)
        elif isinstance(value, list) and len(value) == n and n > 2 and name not in NOT_PER_LAYER and _varied(value):
            if not follows_depth(text, name, n):
                raise PruneError(f"config.json: {name} has one entry per layer, but its meaning is unknown: refused")
            text[name] = [value[i] for i in keep]
    for name in PREFIX_COUNTS:
        if type(text.get(name)) is int:
            text[name] = sum(old < text[name] for old in keep)
    for name in SUFFIX_COUNTS:
        if type(text.get(name)) is int:
            text[name] = sum(old >= n - text[name] for old in keep)
    if type(text.get("max_window_layers")) is int and text["max_window_layers"] <= n:
        text["max_window_layers"] = sum(old < text["max_window_layers"] for old in keep)
    for name in MTP_COUNTS:
        if text.get(name):
            text[name] = 0
    if isinstance(text.get("per_layer_config"), dict):
        table = {int(k): v for k, v in text["per_layer_config"].items()}
        text["per_layer_config"] = {str(new_index[k]): v for k, v in sorted(table.items()) if k in new_index}
    if isinstance(text.get("ple_layer_ids"), list):
        text["ple_layer_ids"] = [new_index[i - 1] + 1 for i in text["ple_layer_ids"]]
    linear = text.get("linear_attn_config")
    if isinstance(linear, dict):  # kimi_linear counts layers from 1
        for name in ("kda_layers", "full_attn_layers"):
            if isinstance(linear.get(name), list):
                linear[name] = [new_index[i - 1] + 1 for i in linear[name] if i - 1 in new_index]


def _filter(name: str, value: Any, n: int, mtp: int, keep: Sequence[int]) -> Any:
    """The entries of a per-layer list (or pattern string) by index; entries of MTP layers go with them."""
    if len(value) not in (n, n + mtp):
        if name in ("num_experts", "moe_topk", "moe_intermediate_size", "num_shared_expert", "intermediate_size"):
            return value
        raise PruneError(f"config.json: {name} has {len(value)} entries for {n} layers")
    return "".join(value[i] for i in keep) if isinstance(value, str) else [value[i] for i in keep]


def _remap(name: str, value: list[Any], n: int, new_index: dict[int, int]) -> list[int]:
    """Layer numbers of kept layers, renumbered."""
    if not all(type(i) is int and 0 <= i < n for i in value):
        raise PruneError(f"config.json: {name} names a layer outside 0-{n - 1}")
    return [new_index[i] for i in value if i in new_index]


def _varied(value: list[Any]) -> bool:
    """Whether a list could be per-layer data: scalars of one kind."""
    return all(isinstance(item, str | int | float | bool) for item in value)


def _make_explicit(
    text: dict[str, Any],
    kind: str,
    n: int,
    keep: Sequence[int],
    new_index: dict[int, int],
    before: Lists,
    resolve: Resolver,
) -> None:
    """Write out each list that the shallower model would derive differently; refuse if that does not help."""
    wanted = {}
    for name, value in before.items():
        if name in INDEX_LISTS:
            wanted[name] = _remap(name, value, n, new_index)
        elif name in PER_LAYER and len(value) == n:
            wanted[name] = [value[i] for i in keep]
    after = _resolved(text, len(keep), resolve)
    for name, value in wanted.items():
        if name in after and after[name] != value and text.get(name) != value:
            text[name] = value
    after = _resolved(text, len(keep), resolve)
    for name, value in wanted.items():
        if name in PER_LAYER and name in after and after[name] != value:
            raise PruneError(f"config.json: {name}: {kind} cannot express {value} for the kept layers")


def _resolved(text: dict[str, Any], n: int, resolve: Resolver) -> Lists:
    """Derived lists overlaid by the explicit ones."""
    derived = resolve(copy.deepcopy(text), n)
    explicit = {name: text[name] for name in derived if isinstance(text.get(name), list)}
    return derived if resolve is from_class else derived | explicit


def _check_fixed(text: dict[str, Any], kind: str, keep: Sequence[int], fixed: Lists, types: Sequence[str]) -> None:
    """Lists that a config class computes and that no field can state must come out as the kept layers' entries."""
    after = fixed_lists(text)
    for name, value in fixed.items():
        wanted, found = [value[i] for i in keep], after.get(name)
        if name == "kv_sharing_modes" and found is not None and len(types) == len(value):
            wanted, found = (_stores_read(modes, [types[i] for i in keep]) for modes in (wanted, found))
        if found is not None and found != wanted:
            raise PruneError(f"config.json: {name}: {kind} would derive {found} for the kept layers {list(keep)}")


def _stores_read(modes: Sequence[str | None], types: Sequence[str]) -> list[str | None]:
    """KV-sharing modes, without the layers that store keys and values which no later layer of their kind reuses."""
    reused = {kind for mode, kind in zip(modes, types, strict=True) if mode == "reuse"}
    return [None if m == "store" and kind not in reused else m for m, kind in zip(modes, types, strict=True)]


def _keep_one_attention(types: Sequence[str], keep: Sequence[int]) -> None:
    """A hybrid without any attention layer has no cache length: generation would fail."""
    mixing = [i for i, kind in enumerate(types) if kind not in RECURRENT]
    if mixing and not set(mixing) & set(keep):
        raise PruneError(f"config.json: layer_types: no attention layer would be left; keep one of {mixing}")
