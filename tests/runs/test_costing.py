"""A run's speeds and training times as money, against sums done by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prune.errors import UsageError
from prune.reporting.data import Candidate
from prune.runs.costing import cost_summary, put_price, read_speeds
from prune.runs.recipe import CostRecipe, DataRecipe, EvalRecipe, PlanRecipe, Recipe
from prune.wording import message


def recipe(**cost: Any) -> Recipe:
    return Recipe(
        model="m", data=DataRecipe(domains={"a": "a.txt"}), plan=PlanRecipe(depths=[2]),
        eval=EvalRecipe(suites=["math"]), cost=CostRecipe(**cost),
    )  # fmt: skip


def row(decode: float, seconds: list[float]) -> dict[str, Any]:
    speed = {
        "device": "cpu", "threads": 1, "dtype": "float32", "batch_size": 1, "prompt_tokens": 8, "new_tokens": 4,
        "prefill_tokens_per_s": 900.0, "decode_tokens_per_s": decode, "prefill_seconds": [1.0] * len(seconds),
        "decode_seconds": seconds, "peak_memory_bytes": None,
    }  # fmt: skip
    return {"parameters": 100, "bytes": 400, "kv_bytes_per_token": 16, "layers": 4, "throughput": speed}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "evidence").mkdir()
    rows = {"original": row(100.0, [3.0, 3.0, 3.0]), "2": row(125.0, [2.4, 2.0, 3.0])}
    (tmp_path / "evidence/cost.json").write_text(json.dumps(rows), encoding="utf8")
    return tmp_path


def healed(root: Path, settings: Recipe) -> Candidate:
    candidate = Candidate(num_layers=2, stage="healed", heal_seconds=7200.0, heal_tokens=1_000_000)
    put_price(candidate, read_speeds(root, settings), settings)
    return candidate


def test_break_even_by_hand(root: Path) -> None:
    found = healed(root, recipe(price_per_hour=3.6))
    # 0.001 a second: 10 and 8 a million tokens, two hours of training 7.2, so 7.2 / 2 million tokens.
    assert found.cost_per_million_tokens == pytest.approx(8.0)
    assert found.healing_cost == pytest.approx(7.2)
    assert found.break_even_tokens == pytest.approx(3.6e6)
    assert found.decode_speedup == pytest.approx(1.25)


def test_without_a_price_break_even_is_the_same_and_money_is_absent(root: Path) -> None:
    found = healed(root, recipe())
    assert found.break_even_tokens == pytest.approx(3.6e6)
    assert (found.cost_per_million_tokens, found.healing_cost) == (None, None)


def test_a_planned_budget_is_priced_at_the_measured_training_speed(root: Path) -> None:
    found = healed(root, recipe(price_per_hour=3.6, healing_price_per_hour=7.2, healing_tokens=10_000_000))
    assert found.healing_cost == pytest.approx(10 * 2 * 7.2)
    assert found.break_even_tokens == pytest.approx(20 * 3.6e6)


def test_a_candidate_that_is_not_healed_has_no_break_even(root: Path) -> None:
    settings = recipe(price_per_hour=3.6)
    candidate = Candidate(num_layers=2, stage="pruned")
    put_price(candidate, read_speeds(root, settings), settings)
    assert candidate.cost_per_million_tokens == pytest.approx(8.0)
    assert candidate.break_even_tokens is None


def test_sensitivity_uses_the_repeats_paired_ends(root: Path) -> None:
    settings = recipe(price_per_hour=3.6)
    summary = cost_summary(healed(root, settings), read_speeds(root, settings), settings)
    speedup = next(row for row in summary.sensitivity if row.name == "speedup")
    assert (speedup.low, speedup.high) == pytest.approx((1.0, 1.5))
    assert speedup.at_low is None
    assert summary.break_even_tokens == pytest.approx(3.6e6)


def bench(path: Path, speed: float) -> str:
    path.write_text(json.dumps({"output_throughput": speed, "duration": 1, "total_input_tokens": 5}), encoding="utf8")
    return str(path)


def test_vllms_speeds_replace_the_runs_own(root: Path) -> None:
    files = {"original": bench(root / "o.json", 1000.0), "2": bench(root / "c.json", 2000.0)}
    settings = recipe(price_per_hour=3.6, vllm_bench=files)
    found = healed(root, settings)
    assert found.decode_speedup == pytest.approx(2.0)
    assert found.cost_per_million_tokens == pytest.approx(0.5)
    assert found.prefill_tokens_per_s is None


def test_a_candidate_without_a_vllm_file_has_no_speed_rather_than_another_runtimes(root: Path) -> None:
    settings = recipe(price_per_hour=3.6, vllm_bench={"original": bench(root / "o.json", 1000.0)})
    assert healed(root, settings).decode_tokens_per_s is None
    assert message("missing_vllm", depths=["2"]) in read_speeds(root, settings).not_measured


@pytest.mark.parametrize(("names", "words"), [(["2"], "no file for `original`"), (["original", "7"], "names 7")])
def test_vllm_files_must_name_what_the_run_has(root: Path, names: list[str], words: str) -> None:
    files = {name: bench(root / f"{name}.json", 10.0) for name in names}
    with pytest.raises(UsageError, match=words):
        read_speeds(root, recipe(vllm_bench=files))
