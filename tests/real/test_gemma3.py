"""A real model with post-norms and a window pattern: what layers add, and a cut that breaks the pattern's period."""

from __future__ import annotations

import json

import pytest
import torch

from prune.embedded import HERE

from .plain import STORY_ROWS, command, load, nll, token_ids, without

pytestmark = pytest.mark.real
LENGTH = 32
DROP = [3, 5, 11]  # 5 and 11 attend to everything


@pytest.fixture(scope="module")
def story():
    return json.loads((HERE / STORY_ROWS).read_text(encoding="utf8").splitlines()[0])["text"]


@pytest.fixture(scope="module")
def original(gemma3):
    return load(gemma3)


def test_the_tokenizer_puts_the_beginning_of_text_first(gemma3, story):
    (ids,) = token_ids(gemma3, [story], LENGTH)
    assert ids[0, 0] == 2


def test_the_cut_checkpoint_is_the_model_without_the_layers(gemma3, original, story, tmp_path, monkeypatch):
    target = tmp_path / "cut"
    assert command(monkeypatch, "cut", gemma3, "-o", target, "--drop_layers", ",".join(map(str, DROP)), "--quiet") == 0
    (ids,) = token_ids(gemma3, [story], LENGTH)
    with torch.no_grad():
        ours, expected = (m(input_ids=ids, use_cache=False).logits for m in (load(target), without(original, DROP)))
    assert torch.equal(ours, expected)
    kinds = original.config.layer_types
    assert load(target).config.layer_types == [kind for layer, kind in enumerate(kinds) if layer not in DROP]


def test_dnll_is_that_of_the_model_without_the_layer(gemma3, original, story, tmp_path, monkeypatch):
    (tmp_path / "story.jsonl").write_text(json.dumps({"text": story}) + "\n")
    data = f"story={tmp_path / 'story.jsonl'}"
    code = command(monkeypatch, "analyze", gemma3, "-o", tmp_path / "analysis", "--data", data, "--measure",
                    "contributions,dnll", "--seq_length", LENGTH, "--json")  # fmt: skip
    assert code == 0
    from safetensors.numpy import load_file

    found = load_file(tmp_path / "analysis" / "measurements.safetensors")
    documents = token_ids(gemma3, [story], LENGTH)
    expected = nll(without(original, [5]), documents) - nll(original, documents)
    assert found["output_effect/dnll"][5] == pytest.approx(expected, abs=1e-3)
    assert "relative_contribution/attn" in found  # sub-layers explain the stream, post-norms included
