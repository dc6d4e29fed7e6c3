"""Speed is measured on the real model, side by side, and reported with what it depends on."""

from __future__ import annotations

import json
import statistics
import sys
from typing import Any

import pytest
import torch

import evals.throughput
from evals.errors import EvalUsageError
from evals.throughput import measure_side_by_side


def test_rates_are_tokens_over_the_median_time(model: Any) -> None:
    found = measure_side_by_side({"model": model}, batch_size=2, prompt_tokens=16, new_tokens=5, repeats=3)["model"]
    assert len(found.prefill_seconds) == len(found.decode_seconds) == 3
    assert found.prefill_tokens_per_s == pytest.approx(2 * 16 / statistics.median(found.prefill_seconds))
    assert found.decode_tokens_per_s == pytest.approx(2 * 4 / statistics.median(found.decode_seconds))
    assert found.dtype == "float32"
    assert (found.device, found.threads) == ("cpu", torch.get_num_threads())
    assert json.loads(json.dumps(found.to_dict()))["batch_size"] == 2


def test_models_take_turns_after_one_warm_up_each(
    model: Any, other_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    def fake(measured: Any, batch: int, prompt: int, new: int) -> tuple[float, float]:
        order.append("a" if measured is model else "b")
        return 1.0, 2.0

    monkeypatch.setattr(evals.throughput, "_once", fake)
    measure_side_by_side({"a": model, "b": other_model}, batch_size=1, prompt_tokens=4, new_tokens=4, repeats=2)
    peak = ["a", "b"] if sys.platform == "linux" else []
    assert order == [*"ab", *"ab", *"ba", *peak]


def test_the_timed_loop_makes_the_tokens_that_generate_makes(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    fed: list[Any] = []
    forward = model.forward

    def recording(ids: Any, **rest: Any) -> Any:
        fed.append(ids)
        return forward(ids, **rest)

    monkeypatch.setattr(model, "forward", recording)
    evals.throughput._once(model, 2, 8, 5)
    monkeypatch.undo()
    prompt, made = fed[0], torch.cat(fed[1:], 1)
    greedy = model.generate(
        prompt, max_new_tokens=4, min_new_tokens=4, do_sample=False, eos_token_id=-1, pad_token_id=1
    )
    assert torch.equal(greedy[:, 8:], made)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"batch_size": 0}, "at least 1"),
        ({"new_tokens": 1}, "at least 2"),
        ({"prompt_tokens": 255}, r"model: 255 \+ 4 tokens exceed its context of 256"),
    ],
)
def test_sizes_that_cannot_be_measured_are_refused(model: Any, sizes: dict[str, int], message: str) -> None:
    with pytest.raises(EvalUsageError, match=message):
        measure_side_by_side({"model": model}, **{"batch_size": 1, "prompt_tokens": 4, "new_tokens": 4, **sizes})[
            "model"
        ]
