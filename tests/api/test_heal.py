"""`prune.heal` of loaded models: the checkpoint's own healing, with student and teacher left as they were."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import prune
from prune.errors import PruneError, UsageError

MATH = [{"prompt": f"q={a};j=q+{b};j=", "completion": str(a + b)} for a in range(5) for b in range(5)]
SMALL = {"max_steps": 3, "learning_rate": 1e-3, "per_device_train_batch_size": 2, "max_length": 32, "seed": 0}


@pytest.fixture(scope="module")
def teacher(demo_model):
    return AutoModelForCausalLM.from_pretrained(demo_model, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tokenizer(demo_model):
    return AutoTokenizer.from_pretrained(demo_model)


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(ours, theirs):
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_loaded_model_is_healed_as_its_checkpoint_is_and_stays_as_it_was(
    teacher, tokenizer, demo_model, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    small = prune.cut(teacher, drop_layers=[7, 8], copy=True)
    before, original = weights(small), weights(teacher)
    healed = prune.heal(small, teacher=teacher, data={"math": MATH}, tokenizer=tokenizer, **SMALL)
    assert same(weights(small), before)
    assert same(weights(teacher), original)
    assert not same(weights(healed), before)
    assert not healed.training
    assert list(tmp_path.iterdir()) == []
    pointers = {p.data_ptr() for model in (small, teacher) for p in model.parameters()}
    assert not any(p.data_ptr() in pointers for p in healed.parameters())  # nothing is shared any more

    prune.cut(demo_model, tmp_path / "small", drop_layers=[7, 8], verify=False)
    result = prune.heal(str(tmp_path / "small"), tmp_path / "out", teacher=demo_model, data={"math": MATH}, **SMALL)
    reference = AutoModelForCausalLM.from_pretrained(tmp_path / "small", dtype=torch.float32)
    assert result.steps == 3
    difference = max(
        float((a - b).abs().max()) for a, b in zip(healed.parameters(), reference.parameters(), strict=True)
    )
    assert difference > 0
    stored = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    for ours, theirs in zip(healed.parameters(), stored.parameters(), strict=True):
        assert torch.equal(ours.to(theirs.dtype), theirs)  # the checkpoint is saved in its own dtype


def test_mistakes_name_the_argument(teacher, tokenizer):
    small = prune.cut(teacher, drop_layers=[7, 8], copy=True)
    given = {"teacher": teacher, "data": {"math": MATH}, "tokenizer": tokenizer, **SMALL}
    for wrong, message in (
        ({"output": "somewhere"}, "^output: a loaded model is healed in memory"),
        ({"teacher": None}, "^teacher is missing"),
        ({"resume": True}, "^resume: goes with output"),
        ({"tokenizer": None}, "^tokenizer is missing"),
        ({"max_step": 3}, "unknown argument 'max_step'.*did you mean 'max_steps'"),
        ({"data": {"math": [4]}}, "^data math: row 1 is a number"),
    ):
        with pytest.raises(PruneError if "data" in wrong else UsageError, match=message):
            prune.heal(small, **{**given, **wrong})
