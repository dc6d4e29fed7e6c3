"""What a quantiser said of a module by name or pattern, it says of the same module after a cut, or the cut is refused.

The oracles are the readers themselves where they are installed (transformers always), else their loops as published.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.quantizers.quantizers_utils import should_convert_module

from prune.errors import PruneError
from prune.surgery.module_names import ModuleNames
from prune.surgery.names import rename_tensors
from prune.surgery.quantization import edit_quantization

DEPTH = 12
PARTS = [*(f"self_attn.{p}_proj" for p in "qkvo"), "mlp.gate", "mlp.experts.0.up_proj", "mlp.experts.11.up_proj"]
OTHERS = ["lm_head", "model.embed_tokens", "vision_tower.layers.3.mlp.up_proj", "vision_tower.layers.0.mlp.up_proj"]
PREFIX = "model.layers."
KEEP = [0, 1, 3, 4, 6, 7, 8, 10, 11]


def modules(keep: Sequence[int] = KEEP, prefix: str = PREFIX) -> tuple[ModuleNames, dict[str, str]]:
    """The names, and old -> new of the kept modules that hold tensors."""
    names = [f"{prefix}{i}.{part}.weight" for i in range(DEPTH) for part in PARTS] + [f"{o}.weight" for o in OTHERS]
    new_index = {old: new for new, old in enumerate(keep)}
    renamed = rename_tensors(names, prefix, DEPTH, new_index, 0)
    pairs = {old.removesuffix(".weight"): new.removesuffix(".weight") for old, new in renamed.items()}
    return ModuleNames.of_tensors(names, renamed, prefix, new_index), pairs


def compressed_tensors(entries: Sequence[str], name: str) -> bool:
    try:
        from compressed_tensors.utils.match import match_name
    except ImportError:
        return any(re.match(e[3:], name) if e.startswith("re:") else e == name for e in entries)
    return any(match_name(name, entry) for entry in entries)


def transformers(entries: Sequence[str], name: str) -> bool:
    return not should_convert_module(name, list(entries))


def modelopt(entries: Sequence[str], name: str) -> bool:
    """As vLLM's `ModelOptQuantConfigBase.is_layer_excluded` does."""
    return any(entry in name or fnmatch(name, entry) for entry in entries)


def gptq(dynamic: dict[str, Any], name: str) -> Any:
    """As vLLM's `get_dynamic_override` does, unless GPTQModel is there."""
    try:
        from gptqmodel.quantization.config import dynamic_get
    except ImportError:
        for pattern, value in dynamic.items():
            if re.match(pattern.removeprefix("-:").removeprefix("+:"), name):
                return False if pattern.startswith("-:") else value
        return None
    return dynamic_get(dynamic, name)


def auto_round(extra: dict[str, Any], name: str) -> Any:
    """As vLLM's `INCConfig` does: the very name, else the first key with special characters that is found."""
    if name in extra:
        return extra[name]
    special = set("*+?^$()[]{}|\\")
    return next((v for key, v in extra.items() if special & set(key) and re.search(key, name)), None)


FIELDS: dict[str, tuple[str, str, Callable[[Any, str], Any]]] = {
    "compressed-tensors": ("compressed-tensors", "ignore", compressed_tensors),
    "bitsandbytes": ("bitsandbytes", "llm_int8_skip_modules", transformers),
    "awq": ("awq", "modules_to_not_convert", transformers),
    "fp8": ("fp8", "modules_to_not_convert", transformers),
    "modelopt": ("modelopt", "exclude_modules", modelopt),
    "gptq": ("gptq", "dynamic", gptq),
    "auto-round": ("auto-round", "extra_config", auto_round),
}
COUNTING = {
    "compressed-tensors": [
        r"re:.*layers\.3\..*", r"re:.*\.3\.self_attn.*", r"re:.*layers\.(0|3)\..*", r"re:.*layers.[0-3]\.mlp.*",
        r"re:model.layers.1.*", r"re:.*layers\.\d\.self_attn\.q_proj$", r"re:.*layers\.(3|7)\..*|lm_head",
        "re:.*layers\\.(?:1[01]|4)\\.",
    ],
    "bitsandbytes": [r"model\.layers\.(0|3)", r"model.layers.[0-3].mlp", r".*layers\.1\d\.self_attn", "model.layers.3"],
    "awq": [r"model\.layers\.(3|11)\.mlp", "model.layers.7.self_attn.q_proj"],
    "fp8": [r"model\.layers\.\d\.mlp\.gate", "model.layers.3.mlp.gate"],
    "modelopt": ["model.layers.1*", "model.layers.[03].*", "*layers.3.self_attn*", "model.layers.?.mlp.gate"],
    "gptq": [r"-:model\.layers\.3\..*", r"+:.*\.(?:3|4)\..*", r"model\.layers\.[0-3]\.mlp", r"-:.*layers\.1\d\..*"],
    "auto-round": [r".*layers\.(0|3)\.mlp", r"layers\.3\.", "model.layers.3.mlp.gate", r"\.[0-3]\.self_attn"],
}  # fmt: skip
ALIKE = {
    "compressed-tensors": [r"re:.*self_attn.*", r"re:.*layers\.\d+\.mlp\.gate$", r"re:.*layers\.[0-9]+\.mlp", "Linear",
                           "lm_head", r"re:.*mlp\.experts\.11\..*", r"re:vision_tower.*"],
    "bitsandbytes": ["lm_head", "mlp.gate", r"model\.layers\.\d+\.self_attn", "model.layers", "vision_tower.layers.3"],
    "awq": ["gate", "visual", "mlp.experts.11"],
    "fp8": ["lm_head", "self_attn.q_proj"],
    "modelopt": ["lm_head", "*self_attn*", "model.layers.*.mlp.gate", "*.mlp.experts.1?.up_proj", "vision_tower*"],
    "gptq": [r"-:.*gate", r"+:.*\.experts\.11\..*", "lm_head"],
    "auto-round": [r".*self_attn.*", "lm_head", r"mlp\.experts\.\d+"],
}  # fmt: skip


def edited(kind: str, entries: Sequence[str], names: ModuleNames) -> tuple[Any, Any]:
    method, field, _ = FIELDS[kind]
    as_dict = field in ("dynamic", "extra_config")
    before: Any = {entry: {"bits": i} for i, entry in enumerate(entries)} if as_dict else list(entries)
    config = {"quant_method": method, field: before}
    edit_quantization(config, names)
    return before, config[field]


CASES = [(kind, [entry]) for kind, every in COUNTING.items() for entry in every]
CASES += [(kind, [*ALIKE[kind], *every]) for kind, every in COUNTING.items()]


@pytest.mark.parametrize(("kind", "entries"), CASES)
def test_every_kept_module_is_told_the_same_by_the_methods_own_reader(kind: str, entries: list[str]) -> None:
    names, pairs = modules()
    before, after = edited(kind, entries, names)
    reader = FIELDS[kind][2]
    for old, new in pairs.items():
        assert reader(before, old) == reader(after, new), (old, new, after)
    assert any(reader(before, old) != reader(type(before)(), old) for old in pairs)


@pytest.mark.parametrize("kind", ALIKE)
def test_what_is_said_of_all_layers_alike_stays_as_it_is(kind: str) -> None:
    names, _ = modules()
    before, after = edited(kind, ALIKE[kind], names)
    assert after == before
    assert list(after) == list(before)


def test_a_pattern_that_names_one_layer_stays_a_pattern() -> None:
    _, after = edited("compressed-tensors", [r"re:model\.layers\.3\..*", r"re:model\.layers\.2\..*"], modules()[0])
    assert after == [r"re:model\.layers\.2\..*"]
    for kind in ("compressed-tensors", "fp8", "modelopt"):
        assert edited(kind, ["model.layers.3*"], modules()[0])[1] == ["model.layers.2*"]
    _, after = edited("awq", ["layers.3.", "layers.2.", "model.layers.3"], modules()[0])
    assert after == ["layers.2.", "model.layers.2"]


@pytest.mark.parametrize(
    ("kind", "entry"),
    [
        ("compressed-tensors", "model.layers.1*"),  # no reader takes it for a glob, whoever wrote it does
        ("fp8", "model.layers.1*"),  # as a regular expression it is every layer
        ("compressed-tensors", r"re:.*\.3\.no_such_part.*"),
        ("gptq", r"-:decoder\.blocks\.(1|2)\..*"),
    ],
)
def test_what_cannot_be_told_is_refused_by_field(kind: str, entry: str) -> None:
    with pytest.raises(PruneError, match=rf"config\.json: quantization_config\.{FIELDS[kind][1]}: .*"):
        edited(kind, [entry], modules()[0])


def test_names_under_another_prefix_and_fused_names_follow_too() -> None:
    names, _ = modules(prefix="language_model.model.layers.")
    entries = [
        r"re:model\.language_model\.layers\.(0|3)\.self_attn\.qkv_proj$",
        "model.language_model.layers.3.mlp.gate",
    ]
    _, after = edited("compressed-tensors", entries, names)
    head = "model.language_model.layers."
    assert after == [f"{head}0.self_attn.qkv_proj", f"{head}2.self_attn.qkv_proj", f"{head}2.mlp.gate"]


def test_a_part_of_a_name_that_two_towers_share_stays_true_of_both() -> None:
    """ModelOpt's reader takes any part of a name: layer 3 goes, and layer 3 of the vision tower stays left alone."""
    keep = [0, 1, 2, 10, 11]
    names, pairs = modules(keep)
    for entry in ("layers.3", "model.layers.1", "layers.10.mlp"):
        before, after = edited("modelopt", [entry], names)
        assert [modelopt(before, old) for old in pairs] == [modelopt(after, new) for new in pairs.values()], after


def test_a_name_that_ends_in_a_dot_is_the_pattern_that_its_reader_takes_it_for() -> None:
    """To transformers `layers.1.` is layer 10, too: a regular expression whose last dot is any character."""
    names, pairs = modules([0, 1, 10])
    before, after = edited("awq", ["model.layers.1."], names)
    reader = FIELDS["awq"][2]
    assert [old for old in pairs if reader(before, old) and ".10." in old]
    assert [reader(before, old) for old in pairs] == [reader(after, new) for new in pairs.values()], after


def test_blocks_listed_with_commas_or_in_lists_are_renumbered() -> None:
    names, _ = modules()
    config: dict[str, Any] = {"quant_method": "auto-round", "block_name_to_quantize": "model.layers.1,model.layers.3"}
    config |= {"to_quant_block_names": [["model.layers.2", "model.layers.4"]], "autoround_version": "0.5.1+cu12 (dev)"}
    edit_quantization(config, names)
    assert config["block_name_to_quantize"] == "model.layers.1,model.layers.2"
    assert config["to_quant_block_names"] == [["model.layers.3"]]
    assert config["autoround_version"] == "0.5.1+cu12 (dev)"


def test_an_exact_name_keeps_going_before_a_pattern_written_out() -> None:
    names, pairs = modules()
    extra = {r".*layers\.(0|3)\.mlp\.gate": {"bits": 8}, "model.layers.3.mlp.gate": {"bits": 2}}
    config: dict[str, Any] = {"quant_method": "auto-round", "extra_config": dict(extra)}
    edit_quantization(config, names)
    for old, new in pairs.items():
        assert auto_round(extra, old) == auto_round(config["extra_config"], new)


NUMBER = st.sampled_from(["0", "1", "3", "11", r"\d", r"\d+", "(0|3)", "[1-4]", "1.", ".*", "[0-9]+", "(?:1|11)", "1*"])
HEAD = st.sampled_from(["", "model.", r"model\.", ".*", r".*\."])
STACK = st.sampled_from(["layers.", r"layers\.", ""])
TAIL = st.sampled_from(["", ".*", r"\..*", ".mlp", r"\.self_attn\.q_proj$", r"\.mlp\..*", "*"])
ENTRY = st.builds(lambda *parts: "".join(parts), HEAD, STACK, NUMBER, TAIL)


@settings(max_examples=300, deadline=None)
@given(
    entries=st.lists(ENTRY, min_size=1, max_size=3, unique=True),
    keep=st.sets(st.integers(0, DEPTH - 1), min_size=2, max_size=DEPTH).map(sorted),
    kind=st.sampled_from(sorted(FIELDS)),
)
def test_no_pattern_means_something_else_after_any_cut(entries: list[str], keep: list[int], kind: str) -> None:
    names, pairs = modules(keep)
    entries = [f"re:{entry}" if kind == "compressed-tensors" else entry for entry in entries]
    try:
        for entry in entries:
            re.compile(entry.removeprefix("re:"))
        before, after = edited(kind, entries, names)
    except (PruneError, re.error):
        return
    reader = FIELDS[kind][2]
    for old, new in pairs.items():
        assert reader(before, old) == reader(after, new), (entries, old, new, after)


def test_hundreds_of_experts_and_entries_take_seconds_at_most() -> None:
    parts = [f"mlp.experts.{e}.{p}_proj" for e, p in itertools.product(range(128), ("gate", "up", "down"))]
    names = [f"{PREFIX}{i}.{part}.weight" for i in range(24) for part in parts]
    new_index = {old: new for new, old in enumerate(i for i in range(24) if i != 5)}
    found = ModuleNames.of_tensors(names, rename_tensors(names, PREFIX, 24, new_index, 0), PREFIX, new_index)
    plain = [name.removesuffix(".weight") for name in names]
    config: dict[str, Any] = {"quant_method": "compressed-tensors", "ignore": [*plain, r"re:.*\.(7|9)\.mlp\.experts.*"]}
    edit_quantization(config, found)
    assert len(config["ignore"]) == 23 * len(parts) + 2  # the modules `experts` themselves
