"""`--runtime`: a cut that it would read wrongly is refused before anything is written; the others are told by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import prune
from prune.errors import PruneError, UsageError
from prune.serving.check import can_read
from tests.serving.test_readers import DEPTH, config_of


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Gemma 3 of twelve layers, every sixth with full attention."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    torch.manual_seed(0)
    more: dict[str, Any] = {"vocab_size": 64, "intermediate_size": 64, "pad_token_id": 0, "max_position_embeddings": 64}
    config = Gemma3TextConfig(**(config_of("gemma3_text") | more))
    directory = tmp_path_factory.mktemp("gemma") / "model"
    Gemma3ForCausalLM(config).save_pretrained(directory)
    return directory


def test_a_cut_out_of_step_is_refused_for_llama_cpp_and_nothing_is_written(gemma: Path, tmp_path: Path) -> None:
    with pytest.raises(PruneError, match=r"runtime llama.cpp: .* would read this wrongly: it takes layer 4"):
        prune.cut(str(gemma), tmp_path / "out", drop_layers="3", runtime=["llama.cpp"])
    assert not (tmp_path / "out").exists()


def test_a_cut_says_by_name_who_reads_it(gemma: Path, tmp_path: Path) -> None:
    result = prune.cut(str(gemma), tmp_path / "out", drop_layers="3", verify=False)
    found = {(row["runtime"], row["status"]) for row in result.runtimes}
    assert {("vllm", "right"), ("llama.cpp", "wrong"), ("mlx", "wrong")} <= found
    assert result.as_dict()["runtimes"] == result.runtimes


def test_a_cut_in_step_is_written_for_the_runtime_in_both_dialects(gemma: Path, tmp_path: Path) -> None:
    result = prune.cut(str(gemma), tmp_path / "out", drop_layers="1-6", runtime=["mlx", "transformers4"])
    refused = {row["runtime"] for row in result.runtimes if row["status"] == "refused"}
    assert refused == {"openvino", "onnxruntime"}
    assert {row["status"] for row in result.runtimes} == {"right", "refused"}
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["rope_theta"] == written["rope_parameters"]["full_attention"]["rope_theta"]
    assert prune.verify(tmp_path / "out", runtime=["llama.cpp"])["runtimes"] == result.runtimes


def test_a_runtime_that_refuses_the_family_is_refused_with_its_reason(gemma: Path, tmp_path: Path) -> None:
    with pytest.raises(PruneError, match=r"runtime openvino: .* refuses this with an error: it exports this family"):
        prune.cut(str(gemma), tmp_path / "out", drop_layers="1-6", runtime=["openvino"])
    assert not (tmp_path / "out").exists()


def test_verify_refuses_what_a_named_runtime_reads_wrongly(gemma: Path, tmp_path: Path) -> None:
    prune.cut(str(gemma), tmp_path / "out", drop_layers="3")
    with pytest.raises(PruneError, match="runtime mlx"):
        prune.verify(tmp_path / "out", runtime=["mlx"])


def test_export_refuses_what_a_named_runtime_reads_wrongly_and_leaves_nothing(gemma: Path, tmp_path: Path) -> None:
    prune.cut(str(gemma), tmp_path / "out", drop_layers="3", verify=False)
    with pytest.raises(PruneError, match="runtime mlx"):
        prune.export(tmp_path / "out", tmp_path / "exported", override="a test", runtime=["vllm", "mlx"])
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_verify_refuses_nothing_that_was_not_asked_for(gemma: Path, tmp_path: Path) -> None:
    prune.cut(str(gemma), tmp_path / "out", drop_layers="3")
    told = {(row["runtime"], row["status"]) for row in prune.verify(tmp_path / "out")["runtimes"]}
    assert ("mlx", "wrong") in told


def test_an_unknown_runtime_is_named_with_the_known_ones(gemma: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"runtime: unknown 'llamacpp' \(did you mean 'llama.cpp'"):
        prune.cut(str(gemma), tmp_path / "out", drop_layers="3", runtime=["llamacpp"])


def test_which_cuts_a_runtime_reads() -> None:
    readable = can_read(config_of("gemma3_text"), ["llama.cpp"])
    whole = range(DEPTH)
    assert readable([i for i in whole if i not in range(2, 8)])  # a whole period, wherever it starts
    assert readable(range(9))  # the end
    assert not readable([i for i in whole if i != 2])


def test_a_plan_for_a_runtime_cuts_what_it_reads_and_others_are_refused_with_the_depths(gemma: Path) -> None:
    config = {"criterion": "last_n", "runtime": ["llama.cpp"]}
    plan = prune.plan(str(gemma), num_layers=DEPTH - 6, **config)
    assert plan.strategy == "in_step"
    assert can_read(config_of("gemma3_text"), ["llama.cpp"])(plan.keep)
    with pytest.raises(PruneError, match=r"runtime llama.cpp: .* would read this wrongly"):
        prune.plan(str(gemma), drop_layers="3", **config)
