"""`prune.analyze` of objects in memory: what the command line gives of the same files, and nothing else touched."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import prune
from prune.cli.app import build
from prune.errors import UsageError

ASKED = {"measure": ["contributions", "dnll"], "bootstrap": 20, "seq_length": 48}
CHAT = ["Once upon a time there was a little dog named Tom.", "The cat sat on the mat and was happy.", "Run!"]
MATH = [{"prompt": f"q={a};j=q+{b};j=", "completion": str(a + b), "difficulty": a} for a in (1, 4) for b in (2, 3)]
DATA = {"chat": CHAT, "math": MATH}


@pytest.fixture(scope="module")
def model(demo_model: Path):
    return AutoModelForCausalLM.from_pretrained(demo_model, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tokenizer(demo_model: Path):
    return AutoTokenizer.from_pretrained(demo_model)


@pytest.fixture(scope="module")
def analysis(model, tokenizer):
    return prune.analyze(model, DATA, tokenizer=tokenizer, **ASKED)


def files(directory: Path) -> list[str]:
    """The same data as flags of the command line."""
    flags = []
    for name, rows in DATA.items():
        path = directory / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"text": r} if isinstance(r, str) else r) + "\n" for r in rows))
        flags += ["--data", f"{name}={path}"]
    return flags


def test_strings_and_a_loaded_model_give_the_command_line_s_figures_to_the_bit(analysis, demo_model, tmp_path):
    flags = ["--measure", "contributions,dnll", "--bootstrap", "20", "--seq_length", "48", "--quiet"]
    command = ["analyze", str(demo_model), "-o", str(tmp_path / "out"), *files(tmp_path), *flags]
    build(command)(command, standalone_mode=False)
    read = prune.Analysis.load(tmp_path / "out")
    assert list(read) == sorted(analysis)
    for key, value in analysis.items():
        np.testing.assert_array_equal(value, read[key], err_msg=key)
    for name in ("hashes", "scalars", "stability", "phase_changes", "warnings"):
        assert analysis.info[name] == read.info[name], name
    for name, described in analysis.info["data"].items():
        assert described | {"source": ""} == read.info["data"][name] | {"source": ""}


def test_nothing_is_written_and_the_model_stays_as_it_was(model, tokenizer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train()
    model.model.layers[3].eval()
    prune.analyze(model, DATA, tokenizer=tokenizer, measure=["contributions"], bootstrap=10)
    assert model.training
    assert model.model.layers[2].mlp.training
    assert not model.model.layers[3].training
    model.eval()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert list(tmp_path.iterdir()) == []


def test_a_directory_and_its_loaded_model_give_the_same(analysis, demo_model):
    assert prune.analyze(demo_model, DATA, **ASKED).measurements.keys() == analysis.keys()
    other = prune.analyze(str(demo_model), DATA, **ASKED)
    assert all(np.array_equal(other[key], analysis[key]) for key in analysis)


def test_a_loaded_model_without_a_tokenizer_reads_token_ids_and_says_what_text_needs(model, tokenizer):
    ids = {"chat": [{"input_ids": tokenizer(text)["input_ids"]} for text in CHAT]}
    plain = prune.analyze(model, {"chat": CHAT}, tokenizer=tokenizer, measure=["contributions"], bootstrap=10)
    same = prune.analyze(model, ids, measure=["contributions"], bootstrap=10)
    assert all(np.array_equal(plain[key], same[key]) for key in plain)
    with pytest.raises(UsageError, match=r"^tokenizer is missing: a loaded model comes without one"):
        prune.analyze(model, {"chat": CHAT}, measure=["contributions"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"data": {}}, "^data is missing"),
        ({"data": {"d": [3]}}, "^data d: row 1 is a number"),
        ({"seq_length": 1}, "seq_length"),
        ({"measure": ["skp"]}, "unknown measure 'skp'"),
        ({"model": 3}, "^model: is int; give a directory, a hub id, or a loaded transformers model"),
        ({"revision": "main"}, "^revision main: the model is loaded already"),
        ({"stream": True}, "^stream: the model is in memory already"),
        ({"measures": ["dnll"]}, "unknown argument 'measures'.*did you mean 'measure'"),
    ],
)
def test_mistakes_name_the_argument(model, tokenizer, arguments, message):
    given = {"model": model, "data": DATA, "tokenizer": tokenizer} | arguments
    with pytest.raises(UsageError if "d" not in (arguments.get("data") or {}) else Exception, match=message):
        prune.analyze(**given)


def test_what_was_left_out_stands_in_the_analysis_and_its_looks(model, tokenizer):
    long = {"prompt": CHAT[0] * 3, "completion": " yes"}
    found = prune.analyze(
        model, {"d": [*CHAT[:2], "", long]}, tokenizer=tokenizer, measure=["angular"], bootstrap=10, seq_length=16
    )
    described = found.info["data"]["d"]
    assert (described["documents"], described["excluded_too_short"], described["excluded_no_answer"]) == (2, 1, 1)
    assert any("fill seq_length" in warning for warning in found.info["warnings"])
    assert "fill seq_length" in repr(found)
