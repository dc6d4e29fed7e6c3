"""The peak is the weights once, and what a run held beside them at its worst moment."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

from evals.peak_memory import _weights, peak_memory_bytes
from evals.throughput import measure_side_by_side

MEBIBYTE = 2**20
linux = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's high-water mark is read")


def held(*mebibytes: int) -> None:
    """Hold blocks of memory one after the other, each given back before the next."""
    for size in mebibytes:
        torch.ones(size * MEBIBYTE // 4)


@linux
@pytest.mark.parametrize("blocks", [(48,), (96, 8, 16)])  # a small block given back first may be kept, and count
def test_the_peak_is_the_weights_and_the_largest_that_was_held_at_once(model: Any, blocks: tuple[int, ...]) -> None:
    found = peak_memory_bytes(model, lambda: held(*blocks))
    assert found is not None
    assert found - _weights(model) == pytest.approx(max(blocks) * MEBIBYTE, abs=3 * MEBIBYTE)


@linux
def test_what_was_freed_before_does_not_hide_what_a_run_takes(model: Any) -> None:
    held(200)
    found = peak_memory_bytes(model, lambda: held(32))
    assert found is not None
    assert found - _weights(model) == pytest.approx(32 * MEBIBYTE, abs=3 * MEBIBYTE)


def test_weights_count_tied_tensors_once(model: Any) -> None:
    parameters = sum(p.numel() * p.element_size() for p in model.parameters())
    buffers = sum(b.numel() * b.element_size() for b in model.buffers())
    assert _weights(model) == parameters + buffers
    tied = torch.nn.ModuleList([torch.nn.Linear(4, 4, bias=False), torch.nn.Linear(4, 4, bias=False)])
    tied[1].weight = tied[0].weight
    assert _weights(tied) == 64


@linux
def test_a_longer_prompt_takes_more(model: Any) -> None:
    short, long = (
        measure_side_by_side({"model": model}, batch_size=64, prompt_tokens=tokens, new_tokens=2, repeats=1)[
            "model"
        ].peak_memory_bytes
        for tokens in (8, 240)
    )
    assert short is not None
    assert long is not None
    # Its attention scores alone: 64 sequences, 4 heads, 240 x 240 float32, if kept; its hidden states in any case.
    assert long - short > 64 * 232 * 32 * 4


def test_where_the_kernel_does_not_say_there_is_no_figure(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    assert peak_memory_bytes(model, lambda: held(1)) is None
