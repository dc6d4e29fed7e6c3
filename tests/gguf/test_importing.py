"""`prune import`: what is written is transformers' own reading of the file, in a checkpoint that anything loads."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import io
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy
import pytest
import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

import prune
from prune.errors import PruneError, UsageError
from prune.gguf.importing import RECORD
from tests.gguf.files import (
    SLIDING,
    SPECIAL,
    TEMPLATE,
    add_tensors,
    finish,
    save_gemma,
    save_llama,
    tensors,
    writer,
)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("gguf") / "small.gguf")


@pytest.fixture(scope="module")
def imported(file: Path) -> Path:
    before = os.umask(0o027)
    try:
        result = prune.import_gguf(file, file.parent / "out")
    finally:
        os.umask(before)
    assert result.verified
    return file.parent / "out"


def test_every_tensor_and_logit_is_transformers_own(file: Path, imported: Path) -> None:
    with contextlib.redirect_stderr(io.StringIO()):
        theirs = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.bfloat16).eval()
    ours, info = AutoModelForCausalLM.from_pretrained(imported, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    expected, found = theirs.state_dict(), ours.eval().state_dict()
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert tensor.dtype == found[name].dtype
        assert torch.equal(tensor, found[name]), name
    ids = torch.arange(20)[None]
    assert torch.equal(theirs(ids).logits, ours(ids).logits)


def test_weights_are_those_that_were_written(file: Path, tmp_path: Path) -> None:
    prune.import_gguf(file, tmp_path / "out", dtype="float32")
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    source = tensors(4)
    numpy.testing.assert_array_equal(found["model.embed_tokens.weight"], source["token_embd.weight"])
    numpy.testing.assert_array_equal(found["model.layers.3.self_attn.v_proj.weight"], source["blk.3.attn_v.weight"])
    step = numpy.abs(source["blk.2.ffn_up.weight"]).reshape(64, 1, 32).max(-1) / 127  # of Q8_0, a block of 32
    error = numpy.abs(found["model.layers.2.mlp.up_proj.weight"].numpy() - source["blk.2.ffn_up.weight"])
    assert (error <= 0.6 * step).all()  # half a step, and the half-precision scale
    assert error.max() > 0


def test_config_tokenizer_template_and_record_are_complete(file: Path, imported: Path) -> None:
    config = json.loads((imported / "config.json").read_text())
    assert "quantization_config" not in config
    assert (config["num_hidden_layers"], config["dtype"]) == (4, "bfloat16")
    assert {"generation_config.json", "tokenizer.json", "chat_template.jinja", RECORD} <= set(os.listdir(imported))
    theirs = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    ours = AutoTokenizer.from_pretrained(imported)
    for text in ("an and  and\n", f"{SPECIAL[1]}and{SPECIAL[0]}", "りんご 3"):
        assert ours(text).input_ids == theirs(text).input_ids
    assert len(ours(SPECIAL[0]).input_ids) == 1
    assert ours.chat_template == TEMPLATE
    settings = json.loads((imported / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] in ("PreTrainedTokenizerFast", "GPT2Tokenizer")
    record = json.loads((imported / RECORD).read_text())
    assert record["quantization"] == {"F32": 26, "Q8_0": 12}
    assert record["sha256"]["small.gguf"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert record["versions"]["gguf"] == importlib.metadata.version("gguf")
    assert str(file.parent) not in "".join(p.read_text() for p in imported.glob("*.json"))


def test_files_have_the_modes_that_the_umask_gives(imported: Path) -> None:
    assert {path.stat().st_mode & 0o777 for path in imported.iterdir()} == {0o640}


def test_a_checkpoint_that_was_imported_is_cut_like_any_other(imported: Path, tmp_path: Path) -> None:
    result = prune.cut(str(imported), tmp_path / "cut", drop_layers="1", verify=False)
    assert (result.num_layers_before, result.keep) == (4, [0, 2, 3])


@pytest.mark.parametrize("says", SLIDING)
def test_the_files_own_sliding_layers_reach_the_config(tmp_path: Path, says: str) -> None:
    windows, kinds = SLIDING[says]
    prune.import_gguf(save_gemma(tmp_path / "g.gguf", windows), tmp_path / "out")
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert ("_sliding_window_pattern" in config) == (says.startswith("neither"))
    assert config["query_pre_attn_scalar"] == 16  # the head's size, not Gemma's own 256
    assert config["layer_types"] == [{"S": "sliding_attention", "F": "full_attention"}[kind] for kind in kinds]


def test_neighbours_of_the_file_are_not_read(file: Path, imported: Path, tmp_path: Path) -> None:
    shutil.copy(file, tmp_path / "a.gguf")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "eos_token": "x"}')
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    prune.import_gguf(tmp_path / "a.gguf", tmp_path / "out")
    for name in os.listdir(imported):
        if name != RECORD:
            assert (tmp_path / "out" / name).read_bytes() == (imported / name).read_bytes(), name


def test_a_key_that_transformers_does_not_take_is_said(tmp_path: Path) -> None:
    file = writer(tmp_path / "a.gguf", 1)
    file.add_float32("llama.rope.scaling.factor", 8.0)
    add_tensors(file, {**tensors(1), "rope_freqs.weight": numpy.ones(8, dtype=numpy.float32)})
    finish(file)
    result = prune.import_gguf(tmp_path / "a.gguf", tmp_path / "out")
    assert result.not_read == ["rope.scaling.factor", "rope_freqs.weight"]


def refused(path: Path, target: Path, error: type[PruneError], message: str) -> None:
    with pytest.raises(error, match=message):
        prune.import_gguf(path, target)
    assert sorted(p.name for p in target.parent.iterdir() if p.name.startswith((".out", "out"))) == []


def test_what_transformers_cannot_read_is_refused_by_name(tmp_path: Path) -> None:
    save_llama(tmp_path / "arch.gguf", 1, architecture="mpt")
    refused(tmp_path / "arch.gguf", tmp_path / "out", PruneError, "architecture 'mpt'; it reads .*llama")
    file = writer(tmp_path / "type.gguf", 1)
    kind = gguf.GGMLQuantizationType.Q8_1
    file.add_tensor("odd", numpy.zeros((1, 40), dtype=numpy.uint8), raw_dtype=kind)
    finish(file)
    refused(tmp_path / "type.gguf", tmp_path / "out", PruneError, "'odd' is Q8_1, .* it reads .*Q4_K")


def test_a_tensor_without_a_place_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    for name, change in (("more", {"blk.0.attn_q.bias": numpy.zeros(32, dtype=numpy.float32)}), ("less", {})):
        file = writer(tmp_path / f"{name}.gguf", 1)
        found = {**tensors(1), **change}
        if name == "less":
            del found["blk.0.ffn_up.weight"]
        add_tensors(file, found)
        finish(file)
    refused(tmp_path / "more.gguf", tmp_path / "out", PruneError, "no place for 'blk.0.attn_q.bias'")
    refused(tmp_path / "less.gguf", tmp_path / "out", PruneError, "missing keys: model.layers.0.mlp.up_proj")


def test_a_mistake_is_one_line(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(tmp_path / "none.gguf", tmp_path / "out", UsageError, "no such file")
    with pytest.raises(UsageError, match="dtype 'int8'"):
        prune.import_gguf(file, tmp_path / "out", dtype="int8")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        prune.import_gguf(file, tmp_path / "full")
    monkeypatch.setitem(sys.modules, "gguf", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    refused(file, tmp_path / "out", UsageError, "pip install 'depth-prune\\[gguf\\]'")


@pytest.mark.parametrize("size", ["abc", "0", "-5GB"])
def test_a_size_that_is_none_is_refused_before_anything_is_read(tmp_path: Path, size: str) -> None:
    with pytest.raises(UsageError, match=r"max_shard_size .*write a size such as 5GB"):
        prune.import_gguf(tmp_path / "none.gguf", tmp_path / "out", max_shard_size=size)


def test_a_full_disk_is_one_line_and_leaves_nothing(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(transformers.PreTrainedModel, "save_pretrained", full)
    refused(file, tmp_path / "out", PruneError, "out: cannot be written: .*No space left")


ODD: dict[str, tuple[Callable[[gguf.GGUFWriter], None], str]] = {
    "template": (lambda file: file.add_uint32("tokenizer.chat_template", 5), "chat_template': is no text"),
    "long": (lambda file: file.add_array("x.y", [7] * 70_000), "'x.y': an array of 70000 values, which no model has"),
    "minus": (lambda file: file.add_int32("tokenizer.ggml.padding_token_id", -1), "is -1, and there are 261 tokens"),
    "beyond": (
        lambda file: file.add_uint32("tokenizer.ggml.unknown_token_id", 261),
        "is 261, and there are 261 tokens",
    ),
    "inf": (lambda file: file.add_float32("llama.rope.scale_linear", float("inf")), "scale_linear': is inf"),
}


@pytest.mark.parametrize("name", ODD)
def test_metadata_that_would_mislead_transformers_is_refused_by_key(tmp_path: Path, name: str) -> None:
    add, message = ODD[name]
    file = writer(tmp_path / "m.gguf", 1)
    add(file)
    add_tensors(file, tensors(1))
    finish(file)
    refused(tmp_path / "m.gguf", tmp_path / "out", PruneError, message)


def test_a_named_template_that_transformers_drops_is_said(tmp_path: Path) -> None:
    file = writer(tmp_path / "m.gguf", 1)
    file.add_string("tokenizer.chat_template.tool_use", "{{ messages }}")
    add_tensors(file, tensors(1))
    finish(file)
    assert prune.import_gguf(tmp_path / "m.gguf", tmp_path / "out", dry_run=True).not_read == [
        "tokenizer.chat_template.tool_use"
    ]


def test_a_tensor_of_another_shape_is_named(tmp_path: Path) -> None:
    file = writer(tmp_path / "m.gguf", 1)
    found = tensors(1)
    found["blk.0.ffn_up.weight"] = found["blk.0.ffn_up.weight"][:32]
    add_tensors(file, found)
    finish(file)
    refused(
        tmp_path / "m.gguf",
        tmp_path / "out",
        PruneError,
        r"mismatched keys: .*up_proj.weight \(\[32, 32\] in the file, \[64, 32\] by",
    )


def test_a_dry_run_writes_nothing(file: Path, tmp_path: Path) -> None:
    result = prune.import_gguf(file, tmp_path / "out", dry_run=True)
    assert (result.num_layers, result.verified, list(tmp_path.iterdir())) == (4, False, [])


CALLS = {
    "analyze": lambda file, out: prune.analyze(file, {"a": ["text"]}, output=out),
    "compare": lambda file, out: prune.compare([file, "embedded"], out),
    "export": lambda file, out: prune.export(file, out),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_gguf_given_as_model_names_the_command(file: Path, tmp_path: Path, call: str) -> None:
    with pytest.raises(UsageError, match=r"prune import .*small\.gguf -o"):
        CALLS[call](str(file), tmp_path / "out")
