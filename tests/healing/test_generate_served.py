"""`prune generate --backend vllm`: the answers of this process from another one, or a refusal that names the flag."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

import evals.worker
import prune
from evals.runtimes import installed
from prune.errors import PruneError, UsageError

PROMPTS = {"sums": [{"prompt": "Tom has 12 apples and gives 5 away."}, {"prompt": "3 + 4 ="}, {"prompt": "Once"}]}
SETTINGS: dict[str, Any] = {"max_new_tokens": 12, "batch_size": 2}


@pytest.fixture
def own_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker for transformers, run by the Python of these tests under the name of vLLM."""
    monkeypatch.setattr(evals.worker, "installed", lambda name: True)
    monkeypatch.setattr(evals.worker, "python_of", lambda name: Path(sys.executable))
    monkeypatch.setitem(evals.worker.RUNTIMES, "vllm", "transformers")


def test_answers_of_another_process_are_those_of_this_one(own_python: None, demo_model: Path, tmp_path: Path) -> None:
    own = prune.generate(demo_model, data=PROMPTS, **SETTINGS)
    target = tmp_path / "answers.jsonl"
    served = prune.generate(demo_model, target, data=PROMPTS, backend="vllm", **SETTINGS)
    assert served.rows == own.rows
    assert served["answers_sha256"] == own["answers_sha256"]
    assert served["answered_by"].startswith("vllm ")
    assert "answered_by" not in own
    assert target.is_file()


def test_an_answer_that_ran_out_of_context_is_refused() -> None:
    import torch
    from transformers import GenerationConfig

    from prune.healing.served import ServedModel

    class Short:
        runtime, version, max_length = "vllm", "1", 8

        def generate(self, prompts: Any, tokens: int, ends: Any) -> list[list[int]]:
            return [[5, 6]]

    settings = GenerationConfig(max_new_tokens=4, eos_token_id=[0], pad_token_id=1)
    model = ServedModel(Short(), "float32", 10, settings)  # type: ignore[arg-type]
    with pytest.raises(PruneError, match="after 2 of 4 tokens: its context of 8 is full"):
        model.generate(torch.tensor([[3, 4]]), torch.tensor([[1, 1]]))


def test_what_another_runtime_cannot_do_is_named(own_python: None, demo_model: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    for more, message in (
        ({"do_sample": True}, "do_sample: .*answers greedily"),
        ({"device_map": "auto"}, "device_map: is of models in this process"),
        ({"backend": "sglang"}, "backend"),
    ):
        with pytest.raises(UsageError, match=message):
            prune.generate(demo_model, data=PROMPTS, **{"backend": "vllm", **SETTINGS, **more})
    loaded, tokenizer = (kind.from_pretrained(demo_model) for kind in (AutoModelForCausalLM, AutoTokenizer))
    with pytest.raises(UsageError, match="reads checkpoints"):
        prune.generate(loaded, data=PROMPTS, tokenizer=tokenizer, backend="vllm")


@pytest.mark.runtime
def test_vllm_answers_as_transformers(demo_model: Path) -> None:
    if not installed("vllm"):
        pytest.skip("vllm: not installed; scripts/runtime vllm")
    own = prune.generate(demo_model, data=PROMPTS, **SETTINGS)
    served = prune.generate(demo_model, data=PROMPTS, backend="vllm", model_args={"max_model_len": 256}, **SETTINGS)
    assert [row["input_ids"] for row in served.rows] == [row["input_ids"] for row in own.rows]
