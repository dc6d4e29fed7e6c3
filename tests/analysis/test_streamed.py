"""--stream gives what the normal path gives, reads every weight once, and says what it cannot do."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from prune import api
from prune.analysis import analyze
from prune.analysis.registry import STREAMED
from prune.analysis.streamed import Streaming, activation_bytes
from prune.errors import PruneError, UsageError
from prune.model.anatomy import find_anatomy
from prune.model.loading import load_model
from prune.model.streamed_walk import _Recorder
from prune.model.streaming import StreamedModel
from tests.analysis.tiny import BASE, domains, tiny

MIXTRAL = {"num_local_experts": 4, "num_experts_per_tok": 2}  # experts are fused when they are loaded


def saved(family: str, directory: Path) -> Path:
    if family == "mixtral":
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **{**BASE, **MIXTRAL})).eval()
    else:
        model = tiny(family)
    model.save_pretrained(directory, max_shard_size="30KB")  # several files
    return directory


def streamed(directory: Path, spill: Path, memory: int = 1 << 30, **options: object) -> Streaming:
    return Streaming(StreamedModel(str(directory), **options), memory, spill)  # type: ignore[arg-type]


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "gpt_neox", "granite", "gpt_neo", "mamba", "mixtral"])
def test_all_figures_equal_those_of_the_normal_path(family: str, tmp_path: Path) -> None:
    directory = saved(family, tmp_path / "model")
    expected = analyze(load_model(str(directory)), domains(), measure=STREAMED, batch_size=3, bootstrap=20)
    streaming = streamed(directory, tmp_path, memory=0)  # everything lies on disk
    found = analyze(streaming.model.model, domains(), measure=STREAMED, batch_size=3, bootstrap=20, streaming=streaming)
    assert set(found.measurements) == set(expected.measurements)
    for key, value in expected.measurements.items():
        np.testing.assert_allclose(found[key], value, atol=1e-6, rtol=1e-6, err_msg=key)
    assert found.info["warnings"] == expected.info["warnings"]
    assert found.info["stability"] == expected.info["stability"]
    assert streaming.model.bytes_read == streaming.model.checkpoint_bytes
    assert [path.name for path in tmp_path.iterdir()] == ["model"]  # the activations are gone
    assert all(parameter.is_meta for parameter in streaming.model.anatomy.layers.parameters())


def test_first_token_rule_and_half_precision_weights(tmp_path: Path) -> None:
    tiny("llama").to(torch.bfloat16).save_pretrained(tmp_path / "model")
    options = {"measure": ["dnll", "contributions"], "batch_size": 2, "bootstrap": 0, "first_token": "keep"}
    expected = analyze(load_model(str(tmp_path / "model")), domains(), **options)
    streaming = streamed(tmp_path / "model", tmp_path)
    with streaming.model.layer(2) as layer:
        assert {parameter.dtype for parameter in layer.parameters()} == {torch.float32}
    found = analyze(streaming.model.model, domains(), **options, streaming=streaming)
    for key, value in expected.measurements.items():
        np.testing.assert_allclose(found[key], value, atol=1e-6, rtol=1e-6, err_msg=key)


def test_the_estimate_of_activations_is_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prune.model.shelf import Shelf

    directory = saved("llama", tmp_path / "model")
    held: list[int] = []
    put = Shelf.put

    def watched(self: Shelf, key: tuple[str, int], value: object) -> None:
        put(self, key, value)
        held.append(self.on_disk if key[0] != "calls" else 0)

    monkeypatch.setattr(Shelf, "put", watched)
    streaming = streamed(directory, tmp_path, memory=0)
    analyze(streaming.model.model, domains(), measure=STREAMED, batch_size=3, bootstrap=0, streaming=streaming)
    tokens = (14 * 3 + 5 * 2) + (12 * 3 + 3)  # with padding: batches of three, longest first
    estimate = activation_bytes(tokens, 32, 6, 4, STREAMED)
    assert 0.8 * estimate < max(held) < 1.1 * estimate


def test_what_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = saved("llama", tmp_path / "model")
    streaming = streamed(directory, tmp_path)
    with pytest.raises(UsageError, match=r"measure skip,swap: not with stream.*contributions, angular, lens"):
        analyze(streaming.model.model, domains(), measure=["lens", "skip", "swap"], streaming=streaming)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10})())
    short = streamed(directory, tmp_path, memory=0)
    with pytest.raises(UsageError, match="calib_num_samples"):
        analyze(short.model.model, domains(), measure=["angular"], streaming=short)


def test_layers_that_hand_each_other_more_than_the_stream() -> None:
    stream, shared = torch.zeros(1, 2, 4), torch.ones(1)
    recorder = _Recorder(find_anatomy(tiny("llama")), (stream, shared))
    recorder.note((stream,), {"attention_mask": None, "position_embeddings": (torch.ones(1), torch.ones(1))})
    for given in ({"bias": shared}, {"bias": (1, shared)}, {"cache": {}}):
        with pytest.raises(PruneError, match="hand each other more than the residual stream"):
            recorder.note((stream,), given)


def test_checkpoints_that_do_not_fit_their_config(tmp_path: Path) -> None:
    directory = tmp_path / "model"
    tiny("llama").save_pretrained(directory)
    weights = load_file(directory / "model.safetensors")

    def rewritten(**changes: torch.Tensor | None) -> None:
        merged = {**weights, **changes}
        save_file({k: v for k, v in merged.items() if v is not None}, directory / "model.safetensors")

    rewritten(**{"model.layers.3.mlp.up_proj.weight": None})
    with pytest.raises(PruneError, match=r"missing keys: model\.layers\.3\.mlp\.up_proj\.weight"):  # noqa: SIM117
        with StreamedModel(str(directory)).layer(3):
            pass
    rewritten(**{"model.norm.weight": None})
    with pytest.raises(PruneError, match=r"missing keys: model\.norm\.weight"):
        StreamedModel(str(directory))
    rewritten(surplus=torch.zeros(2))
    with pytest.raises(PruneError, match="unexpected keys: surplus"):
        StreamedModel(str(directory))
    rewritten(**{"model.layers.1.mlp.up_proj.weight": torch.zeros(2, 2)})
    with pytest.raises(PruneError, match=r"mismatched keys.*layers\.1\.mlp\.up_proj"):  # noqa: SIM117
        with StreamedModel(str(directory)).layer(1):
            pass
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(PruneError, match="quantised"):
        StreamedModel(str(directory))
    (directory / "model.safetensors").unlink()
    with pytest.raises(PruneError, match="no weights there"):
        StreamedModel(str(directory))


def test_non_finite_weights_are_named(tmp_path: Path) -> None:
    model = tiny("llama")
    model.model.layers[4].mlp.up_proj.weight.data[0, 0] = torch.nan
    model.save_pretrained(tmp_path / "model")
    streaming = streamed(tmp_path / "model", tmp_path)
    with pytest.raises(PruneError, match=r"layer 4: tensor mlp\.up_proj\.weight holds NaN"):
        analyze(streaming.model.model, domains(), measure=["dnll"], streaming=streaming)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_the_command(tmp_path: Path, demo_model: Path) -> None:
    (tmp_path / "text.txt").write_text("one two\n\nthree four five\n\nsix seven\n")
    data = {"general": str(tmp_path / "text.txt")}
    options = {"measure": ["angular"], "bootstrap": 10}
    streaming = api.analyze(
        str(demo_model), data, output=tmp_path / "streamed", **options, stream=True, stream_memory=0
    )
    normal = api.analyze(str(demo_model), data, output=tmp_path / "normal", **options)
    np.testing.assert_allclose(streaming["angular_distance/all"], normal["angular_distance/all"], atol=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["normal", "streamed", "text.txt"]
    with pytest.raises(UsageError, match="measure skip: not with stream"):
        api.analyze(str(demo_model), data, output=tmp_path / "other", measure=["skip"], stream=True)
    assert not (tmp_path / "other").exists()
