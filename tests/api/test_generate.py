"""`prune.generate` of a loaded model: the answers that its checkpoint gives, as rows that `prune.heal` takes."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import prune
from prune.errors import UsageError

PROMPTS = {"math": [{"prompt": f"a={a};b=a+2;b="} for a in range(6)]}


@pytest.fixture(scope="module")
def model(demo_model):
    return AutoModelForCausalLM.from_pretrained(demo_model, dtype=torch.float32)


@pytest.fixture(scope="module")
def tokenizer(demo_model):
    return AutoTokenizer.from_pretrained(demo_model)


def test_a_loaded_model_answers_as_its_checkpoint_does(model, tokenizer, demo_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model.train()
    found = prune.generate(model, data=PROMPTS, tokenizer=tokenizer, max_new_tokens=4)
    assert list(tmp_path.iterdir()) == []
    assert model.training
    assert [int(row["completion"].split()[0]) for row in found.rows] == [a + 2 for a in range(6)]

    stored = prune.generate(demo_model, "own.jsonl", data=PROMPTS, max_new_tokens=4)
    lines = (tmp_path / "own.jsonl").read_text(encoding="utf8").splitlines()
    assert found.rows == stored.rows == [json.loads(line) for line in lines]
    assert json.loads((tmp_path / "own.jsonl.provenance.json").read_text(encoding="utf8")) == stored
    changing = {"seconds", "model", "model_sha256"}
    assert {k: v for k, v in found.items() if k not in changing} == {
        k: v for k, v in stored.items() if k not in changing
    }

    small = prune.cut(model, drop_layers=[8], copy=True)
    healing = {"max_steps": 1, "max_length": 32, "per_device_train_batch_size": 2}
    assert prune.heal(small, teacher=model, data={"own": found.rows}, tokenizer=tokenizer, **healing) is not small


def test_mistakes_name_the_argument(model, tokenizer):
    for wrong, message in (
        ({"tokenizer": None}, "^tokenizer is missing"),
        ({"resume": True}, "^resume: goes with output"),
        ({"output": "own.txt"}, "give output a file that ends in .jsonl"),
    ):
        with pytest.raises(UsageError, match=message):
            prune.generate(model, **{"data": PROMPTS, "tokenizer": tokenizer, **wrong})
