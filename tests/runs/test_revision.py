"""A recipe's revision is what is measured, cut, judged, exported and recorded; and it may not change on the way."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

import prune
from prune.embedded import HERE, MODEL
from prune.errors import PruneError
from prune.runs import pipeline
from tests.fake_hub import ID, NEW, OLD, make_hub

SUITE = {"name": "language", "floor": 0.01, "tasks": [{"task": "demo_stories", "metric": "bits_per_byte"}]}


def _model(seed: int) -> Any:
    def fill(path: Path) -> None:
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=2048, hidden_size=16, intermediate_size=32, num_hidden_layers=4, num_attention_heads=2,
            num_key_value_heads=1, max_position_embeddings=160, initializer_range=0.2,
        )  # fmt: skip
        LlamaForCausalLM(config).save_pretrained(path)
        AutoTokenizer.from_pretrained(MODEL).save_pretrained(path)

    return fill


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The snapshots of a cache with two commits of other weights."""
    return make_hub(tmp_path_factory.mktemp("hub"), {OLD: _model(1), NEW: _model(2)})


@pytest.fixture(autouse=True)
def offline(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache is the one that is read; opening a connection fails the test."""

    def refuse(*_: Any) -> None:
        pytest.fail("a network call was made")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub.parents[1]))
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def _recipe(directory: Path) -> Path:
    recipe = {
        "model": ID, "revision": "v1",
        "data": {"domains": {"arithmetic": str(HERE / "data/calibration/arithmetic.jsonl")}, "seq_length": 24,
                 "calib_num_samples": 4},
        "analyze": {"measure": ["contributions"], "bootstrap": 10},
        "plan": {"depths": [3], "criterion": "relative_contribution", "strategy": "one_shot"},
        "heal": {"enabled": False},
        "eval": {"include_path": [str(HERE / "tasks")], "suites": [SUITE], "limit": 4},
        "draft": {"enabled": False},
        "cost": {"prompt_tokens": 4, "new_tokens": 2, "repeats": 1},
        "export": {"override": "a test run"},
    }  # fmt: skip
    path = directory / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf8"))


def _is_cut_of(made: Path, snapshot: Path, keep: list[int]) -> bool:
    old, new = load_file(snapshot / "model.safetensors"), load_file(made / "model.safetensors")
    names = {f"model.layers.{i}.mlp.up_proj.weight": f"model.layers.{k}.mlp.up_proj.weight" for i, k in enumerate(keep)}
    return all(torch.equal(new[name], old[source]) for name, source in names.items())


def test_a_run_takes_everything_from_the_commit_asked_for_and_stops_when_it_changes(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, weights = tmp_path / "run", hub / OLD / "model.safetensors"
    before, times = weights.read_bytes(), weights.stat()
    original = pipeline.cut_plan

    def replaced_by_another_process(*arguments: Any) -> str:
        weights.write_bytes((hub / NEW / "model.safetensors").read_bytes())
        return original(*arguments)

    monkeypatch.setattr(pipeline, "cut_plan", replaced_by_another_process)
    with pytest.raises(PruneError, match=r"model\.safetensors changed while"):
        prune.run(_recipe(tmp_path), root)
    monkeypatch.setattr(pipeline, "cut_plan", original)
    assert sorted(_read(root / "state.json")["stages"]) == ["analyze", "plan"]
    assert not (root / "pruned").exists()
    weights.write_bytes(before)
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))

    result = prune.run(_recipe(tmp_path), root, resume=True)
    assert result.kept == ["analyze", "plan"]
    plan, manifest = _read(root / "plan.json"), _read(root / "export/prune_manifest.json")
    assert _is_cut_of(root / "pruned/3", hub / OLD, plan["keep"])
    assert not _is_cut_of(root / "pruned/3", hub / NEW, plan["keep"])
    assert _is_cut_of(root / "export", hub / OLD, plan["keep"])
    assert (manifest["source"], manifest["revision"]) == (ID, OLD)
    recorded = {
        "analysis": _read(root / "analysis/analysis.json")["revision"],
        "calibration": _read(root / "analysis/analysis.json")["calibration"]["revision"],
        "plan": plan["revision"],
        "cut": manifest["cut"]["source"]["revision"],
        "report": _read(root / "report.json")["provenance"]["revision"],
    }
    assert recorded == dict.fromkeys(recorded, OLD)


def test_every_command_by_hand_reads_and_records_one_commit(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = {"arithmetic": str(HERE / "data/calibration/arithmetic.jsonl")}
    few: dict[str, Any] = {"calib_num_samples": 2, "seq_length": 24, "bootstrap": 10, "measure": ["contributions"]}
    analysis = prune.analyze(ID, data, output=tmp_path / "analysis", revision="v1", **few)
    same = prune.analyze(str(hub / OLD), data, output=tmp_path / "same", **few)
    other = prune.analyze(f"{ID}@main", data, output=tmp_path / "other", **few)
    key = "relative_contribution/layer"
    assert (analysis.info["model"], analysis.info["revision"], other.info["revision"]) == (ID, OLD, NEW)
    assert (analysis[key] == same[key]).all()
    assert (analysis[key] != other[key]).any()

    # A criterion that runs the model takes the analysis' commit, not the branch.
    plan = prune.plan(tmp_path / "analysis", output=tmp_path / "plan.json", num_layers=3, criterion="dnll")
    again = prune.plan(tmp_path / "same", output=tmp_path / "again.json", num_layers=3, criterion="dnll")
    assert (plan.revision, plan.scores) == (OLD, again.scores)
    with monkeypatch.context() as patch:  # a budget in bytes is measured in the files, which need not be loaded
        patch.setattr("prune.model.loading.load_model", lambda *_, **__: pytest.fail("a model was loaded"))
        budget: dict[str, Any] = {"target_bytes": (hub / OLD / "model.safetensors").stat().st_size - 4096}
        budget |= {"criterion": "relative_contribution", "strategy": "one_shot"}
        smaller = prune.plan(tmp_path / "analysis", output=tmp_path / "smaller.json", **budget)
    assert 1 <= len(smaller.keep) < 4
    with pytest.raises(PruneError, match=f"plan: made for {ID} at {OLD}, the model is {ID} at {NEW}"):
        prune.cut(ID, tmp_path / "wrong", plan=tmp_path / "plan.json")
    prune.cut(ID, tmp_path / "cut", plan=tmp_path / "plan.json", revision=OLD)
    assert _is_cut_of(tmp_path / "cut", hub / OLD, plan.keep)
    assert _read(tmp_path / "cut/prune_cut.json")["source"]["revision"] == OLD

    manifest = prune.export(str(tmp_path / "cut"), tmp_path / "export", override="a test")
    assert (manifest["source"], manifest["revision"]) == (ID, OLD)
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "1 + 1 ="}\n')
    prompts = {"sums": str(tmp_path / "prompts.jsonl")}
    facts = prune.generate(f"{ID}@v1", tmp_path / "a.jsonl", data=prompts, max_new_tokens=1)
    assert (facts["model"], facts["revision"]) == (ID, OLD)
