"""--device_map: layers on disk give what layers in memory give, in every function that takes the flag."""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import prune
from evals.fingerprint import fingerprint
from evals.peak_memory import _weights
from evals.weights import is_offloaded, offloaded, weights
from prune.checkpoint.source import Placement, resolve
from prune.embedded import HERE, MODEL
from prune.errors import PruneError, UsageError
from prune.model.loading import load_model, load_tokenizer
from prune.planning.score_cache import model_fingerprint
from tests.analysis.tiny import BASE
from tests.tiny_llama import save_llama

SHARE = {"device_map": "auto", "max_memory": "cpu=1200KB"}
"""Of the model below, of 1.5 MB: the embeddings and some layers; the others lie on disk."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer, sizes = load_tokenizer("embedded"), {"hidden_size": 64, "intermediate_size": 128}
    path = save_llama(tmp_path_factory.mktemp("model"), num_hidden_layers=6, vocab_size=len(tokenizer), **sizes)
    tokenizer.save_pretrained(path)
    return path


def rows(count: int = 5) -> dict[str, list[dict[str, Any]]]:
    draw = torch.Generator().manual_seed(1)
    return {
        name: [{"input_ids": torch.randint(3, 64, (5 + i,), generator=draw).tolist()} for i in range(count)]
        for name in ("general", "math")
    }


def placed(path: Path, memory: str = "1200KB", device_map: str = "auto") -> Any:
    return load_model(replace(resolve(str(path)), placement=Placement(device_map, {"cpu": memory})))


def test_a_share_lies_on_disk_and_every_weight_is_found_there(checkpoint: Path) -> None:
    plain, model = load_model(str(checkpoint)), placed(checkpoint)
    assert set(model.hf_device_map.values()) == {"cpu", "disk"}
    assert is_offloaded(model)
    assert not is_offloaded(plain)
    for (name, found), (other, expected) in zip(weights(model), weights(plain), strict=True):
        assert name == other
        assert torch.equal(found, expected), name
    absent = {name for name, _ in offloaded(model)}
    assert absent == {name for name, tensor in model.state_dict().items() if tensor.is_meta}
    assert model_fingerprint(model) == model_fingerprint(plain)
    assert 0 < _weights(model) < _weights(plain)
    held = sum(tensor.nbytes for _, tensor in weights(plain)) - sum(tensor.nbytes for _, tensor in offloaded(model))
    assert _weights(model) == pytest.approx(held, rel=0.05)  # beside them the rotary buffers


def test_answers_in_a_cache_are_those_of_either(checkpoint: Path) -> None:
    tokenizer = load_tokenizer("embedded")
    assert fingerprint(placed(checkpoint), tokenizer) == fingerprint(load_model(str(checkpoint)), tokenizer)


def test_fused_experts_are_written_to_a_folder_that_goes_with_the_model(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model("mixtral", **{**BASE, "num_local_experts": 4, "num_experts_per_tok": 2})
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    (tmp_path / "disk").mkdir()
    plain = load_model(str(tmp_path / "model"))
    size = sum(tensor.nbytes for _, tensor in weights(plain))
    layer = sum(parameter.nbytes for parameter in plain.model.layers[0].parameters())
    placement = Placement("auto", {"cpu": size - layer}, str(tmp_path / "disk"))
    model = load_model(replace(resolve(str(tmp_path / "model")), placement=placement))
    assert is_offloaded(model)
    ids = torch.arange(3, 15).reshape(1, -1)  # [1, T]
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, plain(ids).logits)
    assert list((tmp_path / "disk").iterdir())
    del model
    gc.collect()
    assert not list((tmp_path / "disk").iterdir())


def test_all_measurements_equal_those_in_memory(checkpoint: Path) -> None:
    asked = {"measure": ["all"], "batch_size": 2, "bootstrap": 10}
    expected = prune.analyze(checkpoint, rows(), **asked)
    found = prune.analyze(checkpoint, rows(), **asked, **SHARE)
    assert found.keys() == expected.keys()
    for key in expected:
        np.testing.assert_allclose(found[key], expected[key], atol=1e-6, rtol=1e-5, err_msg=key)


@pytest.mark.parametrize("criterion", ["dnll", "magnitude"])
def test_a_plan_equals_that_in_memory(criterion: str, checkpoint: Path, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"num_layers": 4, "criterion": criterion, "score_cache": tmp_path / "scores.sqlite"}
    expected = prune.plan(checkpoint, rows(), **asked | {"score_cache": None})
    found = prune.plan(checkpoint, rows(), **asked, **SHARE)
    assert found.keep == expected.keep
    assert found.scores["cost"] == pytest.approx(expected.scores["cost"], rel=1e-5)


def test_taylor_says_that_gradients_need_memory(checkpoint: Path) -> None:
    with pytest.raises(PruneError, match=r"criterion taylor needs gradients .* device_map"):
        prune.plan(checkpoint, rows(), num_layers=4, criterion="taylor", strategy="one_shot", **SHARE)


DEMO = {"device_map": "auto", "max_memory": "cpu=3MB"}  # of some 5 MB in float32


def test_generating_testing_and_comparing_the_demo_with_layers_on_disk() -> None:
    prompts = {"own": [{"prompt": "3 + 4 ="}, {"prompt": "A dog"}]}
    asked = {"max_new_tokens": 6, "do_sample": False}
    assert is_offloaded(placed(MODEL, "3MB"))
    assert (
        prune.generate(MODEL, data=prompts, **asked, **DEMO).rows == prune.generate(MODEL, data=prompts, **asked).rows
    )
    options: dict[str, Any] = {"suite": "demo_math", "limit": 3, "include_path": str(HERE / "tasks")}
    found = prune.eval(MODEL, baseline=MODEL, **options, **DEMO)
    expected = prune.eval(MODEL, baseline=MODEL, **options)
    assert [(t.task, t.n, t.original, t.candidate, t.lost) for t in found.suites[0].tasks] == [
        (t.task, t.n, t.original, t.candidate, t.lost) for t in expected.suites[0].tasks
    ]
    both, speed = {"a": MODEL, "b": MODEL}, {"new_tokens": 2, "repeats": 1, "prompt_tokens": 4}
    compared, plain = prune.compare(both, **options, **speed, **DEMO), prune.compare(both, **options, **speed)
    assert [m.suites["demo_math"].value for m in compared.models] == [m.suites["demo_math"].value for m in plain.models]
    assert [m.footprint for m in compared.models] == [m.footprint for m in plain.models]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_memory": "cpu=1GiB"}, "max_memory goes with device_map"),
        ({"device_map": "auto", "max_memory": "cpu=much"}, "cpu=much: give a GPU's number or cpu, and a size"),
        ({"device_map": "auto", "max_memory": "tpu=1GiB"}, "tpu=1GiB: give a GPU's number or cpu"),
        ({"device_map": "auto", "max_memory": "77=1GiB"}, "max_memory 77=1GiB: there is no GPU 77 here"),
        ({"device_map": "auto", "offload_folder": "nowhere"}, "offload_folder nowhere: no such folder"),
        ({"device_map": "everywhere"}, "device_map 'everywhere'"),
        ({"device_map": "auto", "max_memory": "cpu=1KB"}, "max_memory: leaves no room for the embeddings"),
        ({"device_map": "auto", "stream": True, "measure": ["dnll"]}, "stream and device_map exclude each other"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str, checkpoint: Path) -> None:
    with pytest.raises(UsageError) as refused:
        prune.analyze(checkpoint, rows(), **options)
    assert message in str(refused.value)


def test_several_processes_take_a_device_each(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="spreads one process over all devices"):
        prune.analyze(checkpoint, rows(), device_map="auto")


def test_a_loaded_model_is_where_it_is(checkpoint: Path) -> None:
    with pytest.raises(UsageError, match="the model is loaded already"):
        prune.analyze(load_model(str(checkpoint)), rows(), device_map="auto")


def test_a_damaged_weight_on_disk_is_found_when_the_model_is_loaded(checkpoint: Path, tmp_path: Path) -> None:
    model = load_model(str(checkpoint))
    with torch.no_grad():
        model.model.layers[5].mlp.down_proj.weight[0, 0] = torch.nan
    model.save_pretrained(tmp_path / "damaged")
    with pytest.raises(PruneError, match=r"layers\.5\.mlp\.down_proj\.weight holds NaN"):
        placed(tmp_path / "damaged")
