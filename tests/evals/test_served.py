"""A model in another runtime's process gives the answers of the same model in this one; then the real runtimes do."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

import evals.runtimes
import evals.worker
from evals.errors import EvalError, EvalUsageError
from evals.harness import run_tasks
from evals.runtimes import installed
from evals.tasks import TaskSpec
from evals.worker import Worker

SPECS = [
    TaskSpec(task="tiny_choice", metric="acc_norm", chance=0.25),
    TaskSpec(task="tiny_loglikelihood", metric="acc"),
    TaskSpec(task="tiny_rolling", metric="bits_per_byte"),
    TaskSpec(task="tiny_generate", metric="exact_match", filter="any-letter"),
]


@pytest.fixture
def own_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker for transformers, run by the Python of these tests under the name of vLLM."""
    monkeypatch.setattr(evals.worker, "installed", lambda name: True)
    monkeypatch.setattr(evals.worker, "python_of", lambda name: Path(sys.executable))
    monkeypatch.setitem(evals.worker.RUNTIMES, "vllm", "transformers")


@pytest.fixture
def directory(model: Any, tokenizer: Any, tmp_path: Path) -> Path:
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def agree(served: Any, own: Any, tolerance: float) -> None:
    assert served.keys() == own.keys()
    for name, result in own.items():
        theirs = served[name].records
        assert [r.key for r in theirs] == [
            r.key for r in result.records
        ]  # the same items, by the hash of their prompts
        assert [r.score for r in theirs] == pytest.approx([r.score for r in result.records], rel=tolerance)


def test_a_served_model_scores_as_the_same_model_in_this_process(
    own_python: None, directory: Path, model: Any, tokenizer: Any, task_dir: Path
) -> None:
    settings: dict[str, Any] = {"include_path": [task_dir], "batch_size": 4, "limit": 6}
    served = run_tasks(directory, tokenizer, SPECS, backend="vllm", **settings)
    own = run_tasks(model, tokenizer, SPECS, **settings)
    assert not served.failures
    agree(served, own, 1e-4)
    assert served["tiny_generate"].stats["truncation_rate"] == own["tiny_generate"].stats["truncation_rate"]


def test_sampling_is_refused(own_python: None, directory: Path, tokenizer: Any, task_dir: Path) -> None:
    with pytest.raises(EvalUsageError, match="do_sample"):
        run_tasks(
            directory, tokenizer, SPECS[-1:], include_path=[task_dir], limit=1, backend="vllm",
            gen_kwargs={"do_sample": True, "temperature": 1.0},
        )  # fmt: skip


def test_a_worker_that_cannot_load_says_why(own_python: None, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "no_such_family"}')
    with pytest.raises(EvalError, match=r"vllm: .*no_such_family"):
        Worker("vllm", tmp_path)


def test_another_version_than_the_one_that_was_compared_is_said(
    own_python: None, directory: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Worker("vllm", directory, {"max_model_len": 64}) as worker:
        assert worker.version in caplog.text
        assert evals.runtimes.TRIED["vllm"] in caplog.text
        caplog.clear()
        monkeypatch.setitem(evals.runtimes.TRIED, "vllm", worker.version)
    Worker("vllm", directory, {"max_model_len": 64}).close()
    assert caplog.text == ""


def test_a_worker_that_dies_is_named(own_python: None, directory: Path) -> None:
    worker = Worker("vllm", directory, {"max_model_len": 64})
    worker._process.kill()
    with pytest.raises(EvalError, match="vllm: it ended without an answer"):
        worker.generate([[3, 4]], 2)
    worker.close()


@pytest.mark.runtime
def test_vllm_scores_as_transformers(demo_model: Path, task_dir: Path) -> None:
    """The demo model: vLLM has no attention on CPU for heads of the tiny model's size."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if not installed("vllm"):
        pytest.skip("vllm: not installed; scripts/runtime vllm")
    tokenizer = AutoTokenizer.from_pretrained(demo_model)
    own = AutoModelForCausalLM.from_pretrained(demo_model, dtype="float32")
    settings: dict[str, Any] = {"include_path": [task_dir], "batch_size": 4, "limit": 6}
    served = run_tasks(demo_model, tokenizer, SPECS, backend="vllm", **settings)
    assert not served.failures
    agree(served, run_tasks(own, tokenizer, SPECS, **settings), 1e-3)


@pytest.mark.runtime
def test_llama_cpp_scores_likely_and_unlikely_tokens_as_transformers(tmp_path: Path) -> None:
    """A token beyond the few that its server is asked for is read off by lifting its logit."""
    import torch

    from prune.gguf.importing import import_file
    from prune.model.loading import load_model
    from tests.gguf.files import add_tensors, finish, tensors, writer

    if not installed("llama.cpp"):
        pytest.skip("llama.cpp: not installed; scripts/runtime llama.cpp")
    file = tmp_path / "small.gguf"
    made = writer(file, 4)
    add_tensors(made, tensors(4), quantized=False)  # its kernels for 8 bits round activations, too
    finish(made)
    import_file(file, tmp_path / "small", dtype="float32")
    model = load_model(str(tmp_path / "small"), dtype="float32")
    context = [70, 71, 72, 80]
    with torch.inference_mode():
        logprobs = model(torch.tensor([context])).logits[0, -1].log_softmax(-1)  # [V]
    order = logprobs.argsort(descending=True).tolist()
    tokens = [order[0], order[1], order[64], order[100], order[-1], 200, 3]  # 200: a byte that is no whole character
    with Worker("llama.cpp", file, {"max_model_len": 64, "vocabulary": len(order)}) as worker:
        found = worker.score([(context, [token]) for token in tokens])
    assert [logprob for logprob, _ in found] == pytest.approx([float(logprobs[t]) for t in tokens], rel=2e-3)
    assert [greedy for _, greedy in found] == [True, *[False] * 6]


def test_files_have_fingerprints_of_their_own(tmp_path: Path) -> None:
    """One file is no directory: two GGUF files must not share a cache of answers."""
    from evals.fingerprint import directory_fingerprint

    (tmp_path / "a.gguf").write_bytes(b"one")
    (tmp_path / "b.gguf").write_bytes(b"two")
    assert directory_fingerprint(tmp_path / "a.gguf", {}) != directory_fingerprint(tmp_path / "b.gguf", {})
