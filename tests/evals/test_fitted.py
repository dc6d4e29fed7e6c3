"""Batch sizes by memory: what is reckoned holds against what torch allocates, and scores do not change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import evals.fitted
from evals.fitted import FittedHFLM, fitting, free_memory, sequence_bytes
from evals.harness import run_tasks
from evals.peak_memory import peak_memory_bytes
from evals.suite import TaskSpec


def model(vocabulary: int = 4096, layers: int = 4) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=vocabulary, hidden_size=128, intermediate_size=384, num_hidden_layers=layers,
                         num_attention_heads=8, num_key_value_heads=2)  # fmt: skip
    return LlamaForCausalLM(config).eval()


def test_a_sequence_takes_what_the_formula_says() -> None:
    lm, tokens = model(), 512
    weights = sum(p.numel() * p.element_size() for p in lm.parameters())

    def run() -> None:
        with torch.inference_mode():
            lm(torch.ones((4, tokens), dtype=torch.long)).logits.log_softmax(-1)

    peak = peak_memory_bytes(lm, run)
    if peak is None:
        pytest.skip("no count of memory on this system")
    assert 0.5 < (peak - weights) / (4 * sequence_bytes(lm, tokens, all_logits=True)) < 1.3


@pytest.mark.parametrize(("free", "expected"), [(1, 1), (9, 4), (1000, 32)])
def test_sizes_are_powers_of_two_that_fit_half_of_what_is_free(
    free: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = model()
    one = sequence_bytes(lm, 16, all_logits=True)
    monkeypatch.setattr(evals.fitted, "free_memory", lambda device: free * one + 1)
    assert fitting(lm, 16, all_logits=True) == expected


def test_long_items_and_large_vocabularies_get_small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evals.fitted, "free_memory", lambda device: 1 << 30)
    monkeypatch.setattr(evals.fitted, "SCORED_AT_ONCE", {})
    sizes = [
        fitting(model(vocabulary), tokens, all_logits=True) for vocabulary in (500, 100_000) for tokens in (9, 900)
    ]
    assert sizes == [32, 32, 32, 1] or sizes[3] < sizes[1] <= sizes[0]
    assert fitting(model(100_000), 900, all_logits=False) == 32


@pytest.mark.parametrize(("tokens", "expected"), [(9, 32), (100, 4), (200, 2), (600, 1)])
def test_a_pass_that_scores_on_a_cpu_holds_some_hundred_tokens(
    tokens: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evals.fitted, "free_memory", lambda device: 1 << 40)
    assert fitting(model(), tokens, all_logits=True) == expected
    assert fitting(model(), tokens, all_logits=False) == 32


def test_a_containers_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "memory.max").write_text("5000000\n")
    (tmp_path / "memory.current").write_text("2000000\n")
    monkeypatch.setattr(evals.fitted, "CGROUP", tmp_path)
    assert free_memory(torch.device("cpu")) == 3_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory(torch.device("cpu")) > 3_000_000


def test_every_task_is_run_in_batches_that_fit_it(
    model: Any, tokenizer: Any, task_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    call, generate = FittedHFLM._model_call, FittedHFLM._model_generate

    def counted(self: Any, ids: Any, *args: Any, **options: Any) -> Any:
        seen.append(len(ids))
        return call(self, ids, *args, **options)

    def counted_generate(self: Any, context: Any, *args: Any, **options: Any) -> Any:
        seen.append(len(context))
        return generate(self, context, *args, **options)

    monkeypatch.setattr(FittedHFLM, "_model_call", counted)
    monkeypatch.setattr(FittedHFLM, "_model_generate", counted_generate)
    specs = [
        TaskSpec(task="tiny_choice", metric="acc_norm", chance=0.25),
        TaskSpec(task="tiny_generate", metric="exact_match", filter="raw"),
    ]
    roomy = run_tasks(model, tokenizer, specs, include_path=[task_dir])
    assert max(seen) > 3
    seen.clear()
    monkeypatch.setattr(evals.fitted, "free_memory", lambda device: 1)
    cramped = run_tasks(model, tokenizer, specs, include_path=[task_dir])
    assert set(seen) == {1}
    assert roomy.scores == cramped.scores
