"""Configs and names that no honest program writes: refused in one line by every door, at once."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import prune
from prune.checkpoint.config_types import RULES, check_types
from prune.checkpoint.directory import INDEX, SINGLE
from prune.errors import PruneError
from prune.planning.planner import make_plan
from prune.surgery.cut import copy_checkpoint, cut
from tests.faults.checkpoints import CONFIG, four_layers, tensor_file


def by_cut(source: Path, scratch: Path) -> None:
    cut(str(source), scratch / "cut", drop_layers=[1], verify=False)


def by_export(source: Path, scratch: Path) -> None:
    staging = scratch / "export"
    staging.mkdir()
    copy_checkpoint(source, staging, name="export")


def by_plan(source: Path, scratch: Path) -> None:
    make_plan(source=str(source), criterion="last_n", strategy="one_shot", target_speedup=1.1)


def by_analyze(source: Path, scratch: Path) -> None:
    (scratch / "text.txt").write_text("a b c\n")
    prune.analyze(str(source), data={"text": str(scratch / "text.txt")}, output=str(scratch / "analysis"))


DOORS = {"cut": by_cut, "export": by_export, "plan": by_plan}
REFUSING = {**DOORS, "analyze": by_analyze}  # which a checkpoint of one-element tensors cannot pass
Door = Callable[[Path, Path], None]
VALUES: list[tuple[dict[str, Any], str]] = [
    ({"num_hidden_layers": "4"}, "num_hidden_layers"),
    ({"num_hidden_layers": 4.0}, "num_hidden_layers"),
    ({"num_hidden_layers": True}, "num_hidden_layers"),
    ({"num_hidden_layers": None}, "num_hidden_layers"),
    ({"num_hidden_layers": 10**30}, "num_hidden_layers"),
    ({"num_hidden_layers": 0}, "num_hidden_layers"),
    ({"num_attention_heads": 0}, "num_attention_heads"),
    ({"hidden_size": "16"}, "hidden_size"),
    ({"text_config": "x"}, "text_config"),
    ({"text_config": {**CONFIG, "num_hidden_layers": "4"}}, "num_hidden_layers"),
    ({"layer_types": {"0": "full_attention"}}, "layer_types"),
    ({"layer_types": [1, 2, 3, 4]}, "layer_types"),
    ({"mlp_only_layers": ["1"]}, "mlp_only_layers"),
    ({"per_layer_config": {"x": {}}}, "per_layer_config"),
    ({"num_nextn_predict_layers": True}, "num_nextn_predict_layers"),
    ({"quantization_config": "fp8"}, "quantization_config"),
    ({"decoder_sparse_step": 0}, "decoder_sparse_step"),
    ({"architectures": "LlamaForCausalLM"}, "architectures"),
    ({"model_type": 7}, "model_type"),
]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return four_layers(tmp_path / "source")


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
def test_a_sound_checkpoint_passes_every_door(source: Path, tmp_path: Path, door: Door) -> None:
    door(source, tmp_path)


def test_the_config_of_every_causal_model_of_transformers_passes() -> None:
    """Their own defaults, as their own classes write them: what they accept must not be refused."""
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    passed = 0
    for kind in sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) & set(CONFIG_MAPPING)):
        try:
            written = CONFIG_MAPPING[kind]().to_json_string(use_diff=False)
        except Exception:  # some have no defaults of their own
            continue
        check_types(json.loads(written))
        passed += 1
    assert passed > 150


def test_padded_layer_numbers_as_transformers_writes_them_pass() -> None:
    check_types({**CONFIG, "per_layer_config": {"05": {"head_dim": 512}, "11": {}}})


@pytest.mark.parametrize("door", REFUSING.values(), ids=REFUSING)
@pytest.mark.parametrize(("fields", "named"), VALUES, ids=str)
def test_f40_a_config_of_wrong_types_or_ranges(
    source: Path, tmp_path: Path, door: Door, fields: dict[str, Any], named: str
) -> None:
    (source / "config.json").write_text(json.dumps(CONFIG | fields))
    began = time.monotonic()
    with pytest.raises(PruneError, match=rf"config\.json: .*{named}"):
        door(source, tmp_path)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("door", REFUSING.values(), ids=REFUSING)
@pytest.mark.parametrize("number", ["03", "٣", "9" * 5000, "３"], ids=["padded", "arabic", "long", "wide"])
def test_f41_a_layer_number_that_transformers_never_writes(
    source: Path, tmp_path: Path, door: Door, number: str
) -> None:
    for path in source.glob("*.safetensors"):
        path.unlink()
    (source / INDEX).unlink()
    tensor_file(source / SINGLE, [*(f"model.layers.{i}.w" for i in range(3)), f"model.layers.{number}.w"])
    with pytest.raises(PruneError, match="no layer number"):
        door(source, tmp_path)


@pytest.mark.parametrize("door", [by_cut, by_export, by_analyze], ids=["cut", "export", "analyze"])
@pytest.mark.parametrize("name", [b"caf\xe9.txt", b"\xff\xfe"], ids=["latin 1", "utf 16"])
def test_f42_a_companion_whose_name_is_not_utf8(source: Path, tmp_path: Path, door: Door, name: bytes) -> None:
    try:
        Path(os.fsdecode(os.path.join(os.fsencode(source), name))).write_text("x")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with pytest.raises(PruneError, match="is not UTF-8"):
        door(source, tmp_path)


@pytest.mark.parametrize("door", [by_cut, by_plan], ids=["cut", "plan"])
def test_f43_twenty_thousand_tensors_in_a_shard_take_seconds(source: Path, tmp_path: Path, door: Door) -> None:
    for path in source.glob("*.safetensors"):
        path.unlink()
    (source / INDEX).unlink()
    tensor_file(source / SINGLE, [f"model.layers.{i}.w{j}" for i in range(4) for j in range(5000)])
    began = time.monotonic()
    door(source, tmp_path)
    assert time.monotonic() - began < 10


PLAIN = st.none() | st.booleans() | st.integers(-2, 10**31) | st.floats(allow_nan=False) | st.text(max_size=4)
VALUE = st.recursive(PLAIN, lambda v: st.lists(v, max_size=5) | st.dictionaries(st.text(max_size=3), v, max_size=3))
KINDS = ("llama", "qwen2", "gemma3_text", "gemma2", "smollm3", "qwen3_next", "qwen3_moe", "gpt2", "olmo3", "cohere2")


@settings(max_examples=150, deadline=5000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(KINDS), fields=st.dictionaries(st.sampled_from(sorted(RULES)), VALUE, max_size=3))
def test_any_value_in_any_field_is_cut_or_refused(source: Path, kind: str, fields: dict[str, Any]) -> None:
    (source / "config.json").write_text(json.dumps({**CONFIG, "model_type": kind, **fields}))
    with contextlib.suppress(PruneError):
        cut(str(source), source.parent / "out", drop_layers=[1], verify=False, dry_run=True)
