"""`prune.cut` in memory: the checkpoint that a cut on disk writes, and the given model untouched where asked."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

import prune
from prune.errors import UsageError

DROP = [3, 7, 8]


def tensors(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(ours, theirs):
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.fixture(scope="module")
def on_disk(demo_model, tmp_path_factory):
    target = tmp_path_factory.mktemp("cut") / "small"
    prune.cut(demo_model, target, drop_layers=DROP, verify=False)
    return AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32)


def test_a_copy_is_the_checkpoint_that_a_cut_on_disk_writes_and_the_model_stays(demo_model, on_disk):
    model = AutoModelForCausalLM.from_pretrained(demo_model, dtype=torch.float32)
    before, config = tensors(model), model.config.to_dict()
    small = prune.cut(model, drop_layers=DROP, copy=True)
    assert small is not model
    assert same(tensors(small), tensors(on_disk))
    assert same(tensors(model), before)
    assert model.config.to_dict() == config
    ids = torch.tensor([[5, 6, 7, 8]])
    assert torch.equal(small(ids).logits, on_disk(ids).logits)
    with torch.no_grad():  # nothing is shared: writing into one does not reach the other
        small.model.embed_tokens.weight.zero_()
    assert same(tensors(model), before)


def test_without_copy_the_model_itself_is_cut(demo_model, on_disk):
    model = AutoModelForCausalLM.from_pretrained(demo_model, dtype=torch.float32)
    assert prune.cut(model, drop_layers=DROP) is model
    assert same(tensors(model), tensors(on_disk))


def test_a_directory_without_an_output_gives_the_small_model_and_writes_nothing(
    demo_model, on_disk, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    small = prune.cut(demo_model, keep_layers=[i for i in range(16) if i not in DROP])
    assert same(tensors(small), tensors(on_disk))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"output": "somewhere"}, "^output: a loaded model is cut in memory"),
        ({"adapters": ["a"]}, "^adapters: are cut along on disk only"),
        ({"dry_run": True}, "^dry_run: a cut in memory writes nothing"),
        ({"drop_layers": [99]}, "99"),
        ({"plan": "missing.json", "drop_layers": None}, r"missing\.json"),
    ],
)
def test_a_refused_cut_leaves_the_model_as_it_was(demo_model, tmp_path, arguments, message, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(demo_model)
    before = tensors(model)
    with pytest.raises(UsageError, match=message):
        prune.cut(model, **{"drop_layers": DROP, **arguments})
    assert same(tensors(model), before)
    assert list(tmp_path.iterdir()) == []
