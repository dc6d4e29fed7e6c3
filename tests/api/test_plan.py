"""`prune.plan` of an analysis or a model in memory: the plan that the command line makes of the same files."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import prune
from prune.errors import UsageError
from prune.planning.sizes import measure_sizes
from prune.planning.units import Units

CHAT = ["Once upon a time there was a little dog named Tom.", "The cat sat on the mat.", "Run, Tom, run!"]
ASKED = {"num_layers": 14, "strategy": "one_shot"}


@pytest.fixture(scope="module")
def model(demo_model):
    return AutoModelForCausalLM.from_pretrained(demo_model, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tokenizer(demo_model):
    return AutoTokenizer.from_pretrained(demo_model)


@pytest.fixture(scope="module")
def analysis(model, tokenizer):
    return prune.analyze(model, {"chat": CHAT}, tokenizer=tokenizer, measure=["contributions"], bootstrap=10)


@pytest.fixture(scope="module")
def on_disk(demo_model, tmp_path_factory):
    """The same from files, analysis and plan."""
    root = tmp_path_factory.mktemp("files")
    (root / "chat.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in CHAT))
    data = {"chat": str(root / "chat.jsonl")}
    prune.analyze(demo_model, data, measure=["contributions"], bootstrap=10, output=root / "analysis")
    return root / "analysis", prune.plan(root / "analysis", output=root / "plan.json", **ASKED)


def test_an_analysis_a_model_and_files_give_the_same_plan(analysis, model, tokenizer, demo_model, on_disk, tmp_path):
    plans = [
        prune.plan(analysis, **ASKED),
        prune.plan(model, {"chat": CHAT}, tokenizer=tokenizer, **ASKED),
        prune.plan(demo_model, {"chat": CHAT}, **ASKED),
    ]
    for plan in plans:
        assert (plan.keep, plan.drop, plan.order) == (on_disk[1].keep, on_disk[1].drop, on_disk[1].order)
        assert plan.scores == on_disk[1].scores
        assert plan.data["chat"]["sha256"] == on_disk[1].data["chat"]["sha256"]


def test_nothing_is_written_without_an_output(analysis, on_disk, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    directory = on_disk[0]
    before = sorted(path.name for path in directory.parent.iterdir())
    prune.plan(analysis, criterion="block_influence", **ASKED)
    prune.plan(directory, criterion="last_n", num_layers=15)
    assert sorted(path.name for path in directory.parent.iterdir()) == before
    assert list(tmp_path.iterdir()) == []


def test_a_plan_of_measurements_needs_neither_model_nor_documents(analysis):
    plan = prune.plan(prune.Analysis(analysis.info, analysis.measurements), criterion="block_influence", **ASKED)
    least = analysis.frame()["block_influence"].nsmallest(2)
    assert plan.drop == sorted(least.index)


def test_sizes_of_a_model_cut_in_memory_are_its_own(model, tokenizer, demo_model):
    small = prune.cut(model, drop_layers="8-15", copy=True)
    sizes = measure_sizes(str(demo_model), Units(16), "params", None)
    target = sum(p.numel() for p in small.parameters()) - sizes.layers[0]
    plan = prune.plan(small, {"chat": CHAT}, tokenizer=tokenizer, criterion="last_n", target_params=target)
    assert (plan.num_layers, plan.drop) == (8, [7])


def test_what_is_missing_or_stale_is_named(analysis, model, demo_model, tokenizer, on_disk, tmp_path):
    for wrong, message in (
        (lambda: prune.plan(model, **ASKED), "^data is missing"),
        (lambda: prune.plan(tmp_path, **ASKED), "no analysis.json there"),
        (lambda: prune.plan(model, {"chat": CHAT}, **ASKED), "^tokenizer is missing"),
        (lambda: prune.plan(analysis), "num_layers"),
        (lambda: prune.plan(3, {"chat": CHAT}, **ASKED), "^model: is int"),
    ):
        with pytest.raises(UsageError, match=message):
            wrong()
    analysis.save(tmp_path / "saved")
    with pytest.raises(UsageError, match="was in memory"):
        prune.plan(tmp_path / "saved", **ASKED)
    copied = shutil.copytree(on_disk[0], tmp_path / "copied")
    stored = (copied / "analysis.json").read_text(encoding="utf8").replace("chat.jsonl", "gone.jsonl")
    (copied / "analysis.json").write_text(stored, encoding="utf8")
    with pytest.raises(UsageError, match=r"documents that are not here \(chat=.*give them with data"):
        prune.plan(copied, **ASKED)
    alone = prune.plan(copied, num_layers=14, criterion="block_influence", strategy="one_shot")  # as the message says
    assert len(alone.keep) == 14
    other = AutoModelForCausalLM.from_pretrained(demo_model)
    stale = prune.analyze(other, {"chat": CHAT}, tokenizer=tokenizer, measure=["angular"], bootstrap=10)
    prune.cut(other, drop_layers=[3])
    with pytest.raises(UsageError, match="was changed since this analysis"):
        prune.plan(stale, **ASKED)
