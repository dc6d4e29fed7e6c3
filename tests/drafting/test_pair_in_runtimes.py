"""Pairs in the runtimes that serve them: outputs are the original's own, and the line of the card starts the pair."""

from __future__ import annotations

import json
import os
import re
import shlex
from pathlib import Path

import pytest

import prune
from evals.runtimes import installed, python_of
from prune.checkpoint.directory import CONFIG
from prune.embedded import HERE, MODEL
from prune.gguf.real_models import SMOLLM2, cache_directory

pytestmark = [pytest.mark.runtime, pytest.mark.slow]
SUMS = HERE / "data/heal/arithmetic.jsonl"
QUICK = {"num_prompts": 3, "train_prompts": 9, "num_train_epochs": 1.0, "on_policy_share": 0, "speedup": 1.01}


def needs(runtime: str) -> None:
    if not installed(runtime):
        pytest.skip(f"{runtime}: not installed; scripts/runtime {runtime}")


def checked(output: Path, runtime: str) -> dict:
    """The record of a pair whose every output was the original's."""
    facts = json.loads((output / "draft.json").read_text())
    assert facts["measured_with"].startswith(runtime)
    (found,) = facts["domains"].values()
    assert found["identical"] + found["ties"] == found["prompts"] == 3
    assert 0 <= found["acceptance_rate"] <= 1
    assert found["speedup_lo"] <= found["speedup"] <= found["speedup_hi"]
    return facts


@pytest.fixture
def sums(tmp_path: Path) -> Path:
    path = tmp_path / "sums.jsonl"
    path.write_text("\n".join(SUMS.read_text().splitlines()[:12]))
    return path


def test_vllm(sums: Path, tmp_path: Path) -> None:
    needs("vllm")
    output = tmp_path / "pair"
    prune.draft(
        "embedded", output, data={"math": str(sums)}, runtime="vllm", keep_layers="0-2,14,15", max_new_tokens=24,
        ignore_eos=True, **QUICK,
    )  # fmt: skip
    checked(output, "vllm")


def test_vllms_line_starts_the_pair(sums: Path, tmp_path: Path) -> None:
    """As it stands in the card, served over HTTP; the answer is transformers'."""
    from tests.export.test_serve_lines import answer, completion

    needs("vllm")
    output = tmp_path / "pair"
    prune.draft("embedded", output, data={"math": str(sums)}, keep_layers="0,15", max_new_tokens=6, **QUICK)
    found = re.search(r"^vllm serve .*$", (output / "README.md").read_text(), re.MULTILINE)
    assert found
    line = found[0].replace("THE_ORIGINAL", shlex.quote(str(MODEL))).replace("THIS_CHECKPOINT", str(output))
    command = f"export PATH={shlex.quote(str(python_of('vllm').parent))}:$PATH; {line} --dtype float32"
    ids = [5, 9, 300, 7, 21]
    running: list = []
    try:
        asked = {"model": str(MODEL), "prompt": ids, "max_tokens": 12, "temperature": 0}
        assert completion(command, tmp_path, running, asked) == answer(MODEL, ids, 12, "float32")
    finally:
        for process in running:
            os.killpg(process.pid, 9)


def test_llama_cpp(tmp_path: Path) -> None:
    """On a real model: llama.cpp knows tokenizers by a hash, and the demo's is none of them."""
    needs("llama.cpp")
    if not (cache_directory() / SMOLLM2.name / CONFIG).is_file():
        pytest.skip("SmolLM2 is not here: run scripts/real_models.py")
    prompts = [{"prompt": f"{name} is a city in"} for name in ("Paris", "Rome", "Oslo", "Lima", "Cairo", "Kyoto")]
    output = tmp_path / "pair"
    prune.draft(
        str(cache_directory() / SMOLLM2.name), output, data={"cities": prompts}, runtime="llama.cpp",
        keep_layers="0-11,27-29", max_new_tokens=16, **QUICK,
    )  # fmt: skip
    facts = checked(output, "llama.cpp")
    assert facts["draft_cost"] < 0.6  # fifteen of thirty layers, in four bits
    assert facts["gguf"] == "draft-q4_0.gguf"
    assert (output / facts["gguf"]).stat().st_size < 60e6
    assert "THIS_CHECKPOINT/draft-q4_0.gguf" in (output / "README.md").read_text()
