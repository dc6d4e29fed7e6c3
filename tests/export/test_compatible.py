"""What export adds for older readers, and that transformers 4 then gives the same logits and the same ids of a text."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

import prune
from evals.runtimes import installed, python_of
from evals.worker import Worker
from prune.model.loading import load_model
from prune.packaging.compatible import make_compatible

TEXT = "Tom has 12 apples and gives 5 away."


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, demo_model: Path) -> Path:
    """The demo model without three layers, exported."""
    place = tmp_path_factory.mktemp("exported")
    prune.cut(str(demo_model), place / "cut", drop_layers="3,9,10")
    prune.export(str(place / "cut"), place / "out", override="a test")
    return place / "out"


def test_both_dialects_stand_in_the_config_and_in_the_manifest(exported: Path) -> None:
    config = json.loads((exported / "config.json").read_text())
    manifest = json.loads((exported / "prune_manifest.json").read_text())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"]
    assert config["torch_dtype"] == config["dtype"]
    assert manifest["compatibility"]["config_keys_added"] == ["rope_theta", "torch_dtype"]
    assert {row["status"] for row in manifest["runtimes"]} == {"right"}
    prune.verify(exported)


def test_the_card_names_who_serves_it_and_who_must_not(exported: Path) -> None:
    card = (exported / "README.md").read_text()
    assert "vllm serve THIS_CHECKPOINT" in card
    assert "Do not use" not in card


def test_a_tokenizer_of_the_new_kind_gets_a_class_that_both_know(tmp_path: Path, demo_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(demo_model)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text((demo_model / "config.json").read_text())
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tokenizer_class": "TokenizersBackend"}))
    assert make_compatible(tmp_path)["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert AutoTokenizer.from_pretrained(tmp_path)(TEXT).input_ids == tokenizer(TEXT).input_ids
    assert make_compatible(tmp_path) == {}  # a second time nothing is left to do


@pytest.mark.runtime
@pytest.mark.parametrize("name", ["transformers-4.57", "transformers-4.51"])
def test_transformers_4_reads_the_export_as_5_does(name: str, exported: Path) -> None:
    if not installed(name):
        pytest.skip(f"{name}: not installed; scripts/runtime {name}")
    ids = AutoTokenizer.from_pretrained(exported)(TEXT).input_ids
    code = "import sys, transformers; a, b = sys.argv[1:]; "
    code += "print(transformers.AutoTokenizer.from_pretrained(a)(b).input_ids)"
    seen = subprocess.run([python_of(name), "-c", code, exported, TEXT], capture_output=True, text=True, check=True)
    assert json.loads(seen.stdout) == ids
    with Worker(name, exported) as worker:
        ((found, _),) = worker.score([(ids[:4], ids[4:])])
    with torch.inference_mode():
        logprobs = load_model(str(exported), dtype="float32")(torch.tensor([ids])).logits[0].log_softmax(-1)  # [T, V]
    expected = logprobs[3:-1].gather(-1, torch.tensor(ids[4:])[:, None]).sum()
    assert found == pytest.approx(float(expected), rel=1e-4)
