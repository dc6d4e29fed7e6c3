"""GGUF files without some attentions or MLPs straight from a directory; llama.cpp's converter stands between."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from safetensors import safe_open
from transformers import LlamaConfig, LlamaForCausalLM

import prune
from evals.errors import EvalUsageError
from evals.runtimes import installed
from evals.worker import Worker
from prune.errors import PruneError, UsageError
from prune.gguf import converted
from prune.model.loading import load_model
from tests.export.test_consumers import sentencepiece_like
from tests.gguf.files import add_tensors, finish, tensors, writer
from tests.surgery.test_deci import parted

LAYERS, ATTENTION, MLP = 6, [1, 2, 4], [2]


def save(directory: Path, dtype: torch.dtype = torch.float32, **changes: Any) -> Path:
    """A random Llama over a tokenizer that llama.cpp's converter knows."""
    tokenizer = sentencepiece_like()
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": len(tokenizer), "hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": LAYERS,
        "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.2, "bos_token_id": 1,
        "eos_token_id": 2, "max_position_embeddings": 128,
    }  # fmt: skip
    LlamaForCausalLM(LlamaConfig(**{**sizes, **changes})).to(dtype).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("converted") / "llama")


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[dict[str, Any], set[str], str]]:
    """The converter replaced by one that writes a file of six layers: configs, files and types that it was given."""
    found: list[tuple[dict[str, Any], set[str], str]] = []

    def convert(directory: Path, target: Path, outtype: str) -> None:
        names = {path.name for path in directory.iterdir()}
        found.append((json.loads((directory / "config.json").read_text()), names, outtype))
        with safe_open(directory / "model.safetensors", framework="np") as weights:
            keys = [key.split(".") for key in weights.keys() if ".layers." in key]  # noqa: SIM118  # no mapping
        present = {(layer, part) for _, _, layer, part, *_ in keys}
        file = writer(target, LAYERS)
        add_tensors(file, {name: data for name, data in tensors(LAYERS).items() if part_of(name) in present | {None}})
        finish(file)

    monkeypatch.setattr(converted, "to_gguf", convert)
    monkeypatch.setattr(converted, "check_runtime", lambda name: None)
    return found


def part_of(name: str) -> tuple[str, str] | None:
    """The layer and the part that a tensor of a GGUF file belongs to, by the names of safetensors."""
    if not name.startswith("blk."):
        return None
    _, layer, part, *_ = name.split(".")
    return layer, "self_attn" if part.startswith("attn") else "mlp"


def heads(path: Path) -> list[int]:
    return gguf.GGUFReader(path).fields["deci.attention.head_count"].contents()


def test_a_directory_becomes_a_file_without_its_sublayers(source: Path, tmp_path: Path, seen: list[Any]) -> None:
    result = prune.cut(str(source), tmp_path / "cut.gguf", plan=parted(ATTENTION, MLP, LAYERS))
    ((config, names, outtype),) = seen
    assert (config["model_type"], outtype) == ("llama", "f32")
    assert {"model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= names
    assert (result.source, result.verified, result.drop_mlp) == (str(source), True, MLP)
    assert [not number for number in heads(tmp_path / "cut.gguf")] == [i in ATTENTION for i in range(LAYERS)]
    assert list(tmp_path.iterdir()) == [tmp_path / "cut.gguf"]
    flags = prune.cut(str(source), tmp_path / "flags.gguf", drop_attn=ATTENTION, drop_mlp=[])
    assert flags.drop_attention == ATTENTION  # a name in .gguf says who reads it


def test_a_directory_that_lacks_sublayers_becomes_a_file_as_it_is(
    source: Path, tmp_path: Path, seen: list[Any]
) -> None:
    prune.cut(str(source), tmp_path / "deci", plan=parted(ATTENTION, MLP, LAYERS), runtime=["mlx"])
    result = prune.cut(tmp_path / "deci", tmp_path / "cut.gguf")
    ((config, _, _),) = seen
    original = json.loads((source / "config.json").read_text())
    same = ("hidden_size", "intermediate_size", "num_key_value_heads", "num_hidden_layers", "architectures")
    assert {key: config[key] for key in same} == {key: original[key] for key in same}
    assert config["model_type"] == "llama"
    assert (result.drop_attention, result.drop_mlp) == (ATTENTION, MLP)
    with pytest.raises(UsageError, match=r"lacks sub-layers already.*cut the original"):
        prune.cut(tmp_path / "deci", tmp_path / "more.gguf", drop_attn=[3])


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"drop_attn": [0, 3]}, "needs attention in layer 0.*protect 0"),
        ({"drop_attn": [5], "drop_mlp": [5]}, "both name layer 5.*drop_layers 5"),
        ({"drop_mlp": [3]}, "attention of a layer whose MLP alone is gone, layer 3.*unit attention"),
        ({"drop_attn": [1], "runtime": ["mlx"]}, "mlx: reads a directory"),
        ({"drop_attn": [1], "runtime": ["vllm"]}, "vllm: reads no model"),
        ({"drop_layers": [1]}, "whole layers as a directory.*convert_hf_to_gguf"),
        ({}, "nothing goes: give drop_attn"),
        ({"drop_attn": [1], "link": True}, "link: not for a GGUF file"),
        ({"plan": parted([1], [], 7)}, "made for 7 layers, the model has 6"),
    ],
)
def test_what_no_such_file_can_hold_is_refused_before_the_converter_starts(
    source: Path, tmp_path: Path, seen: list[Any], asked: dict[str, Any], message: str
) -> None:
    with pytest.raises((PruneError, UsageError), match=message):
        prune.cut(str(source), tmp_path / "cut.gguf", **asked)
    assert not seen
    assert not list(tmp_path.iterdir())


def test_families_and_tensors_that_the_file_cannot_hold_are_refused(tmp_path: Path, seen: list[Any]) -> None:
    biased = save(tmp_path / "biased", attention_bias=True)
    odd = save(tmp_path / "odd", dtype=torch.float64)
    for directory, message in ((biased, "attention_bias True cannot be stated"), (odd, "weights in F64")):
        with pytest.raises(PruneError, match=message):
            prune.cut(str(directory), tmp_path / "cut.gguf", drop_attn=[1])
    assert not seen


def test_without_llama_cpp_nothing_is_begun(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPTH_PRUNE_RUNTIMES", str(tmp_path / "none"))
    with pytest.raises(EvalUsageError, match=r"not installed here: run scripts/runtime llama\.cpp"):
        prune.cut(str(source), tmp_path / "cut.gguf", drop_attn=[1])
    assert not list(tmp_path.iterdir())


@pytest.mark.runtime
@pytest.mark.parametrize("through_a_directory", [False, True])
def test_llama_cpp_gives_the_tokens_of_the_model_in_memory(
    source: Path, tmp_path: Path, through_a_directory: bool
) -> None:
    """Twenty-four greedy tokens on five prompts."""
    if not installed("llama.cpp"):
        pytest.skip("llama.cpp: not installed; scripts/runtime llama.cpp")
    plan = parted(ATTENTION, MLP, LAYERS)
    if through_a_directory:
        prune.cut(str(source), tmp_path / "deci", plan=plan, runtime=["mlx"])
        prune.cut(tmp_path / "deci", tmp_path / "cut.gguf")
    else:
        prune.cut(str(source), tmp_path / "cut.gguf", plan=plan)
    model = load_model(str(source))
    prune.cut(model, plan=plan)
    size = model.config.vocab_size
    prompts = torch.randint(3, size, (5, 8), generator=torch.Generator().manual_seed(5)).tolist()
    asked: dict[str, Any] = {"max_new_tokens": 24, "do_sample": False, "eos_token_id": -1, "pad_token_id": 0}
    asked["attention_mask"] = torch.ones(1, 8, dtype=torch.long)
    own = [model.generate(torch.tensor([ids]), **asked)[0, len(ids) :].tolist() for ids in prompts]
    with Worker("llama.cpp", tmp_path / "cut.gguf", {"vocabulary": size}) as worker:
        assert worker.generate(prompts, 24) == own
