"""Result files of `vllm bench serve`, and the ones that are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from evals.errors import EvalUsageError
from evals.vllm_bench import check_same_load, read_vllm_bench

RESULT = {
    "num_prompts": 200, "request_rate": "inf", "max_concurrency": 64, "duration": 12.5, "completed": 200,
    "total_input_tokens": 100_000, "total_output_tokens": 25_000, "request_throughput": 16.0,
    "output_throughput": 2000.0, "total_token_throughput": 10_000.0, "mean_ttft_ms": 80.0, "mean_tpot_ms": 11.0,
}  # fmt: skip


def written(path: Path, **changes: Any) -> Path:
    path.write_text(json.dumps({**RESULT, **changes}), encoding="utf8")
    return path


def test_speeds_and_load_are_read(tmp_path: Path) -> None:
    found = read_vllm_bench(written(tmp_path / "serve.json"))
    assert found.output_tokens_per_s == 2000.0
    assert found.input_tokens_per_s == 8000.0
    assert (found.mean_ttft_ms, found.mean_tpot_ms) == (80.0, 11.0)
    assert found.setting == "vllm bench serve, num_prompts 200, request_rate inf, max_concurrency 64"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file"),
        ("{", "not JSON"),
        ('{"tokens_per_second": 5, "elapsed_time": 1}', "vllm bench serve --save-result"),
        (json.dumps({**RESULT, "output_throughput": 0.0}), "output_throughput is 0.0"),
        (json.dumps({**RESULT, "duration": "long"}), "duration is 'long'"),
        (json.dumps({**RESULT, "mean_ttft_ms": float("nan")}), "mean_ttft_ms is nan"),
    ],
)
def test_other_files_are_refused_with_their_name(tmp_path: Path, content: str | None, words: str) -> None:
    path = tmp_path / "result.json"
    if content is not None:
        path.write_text(content, encoding="utf8")
    with pytest.raises(EvalUsageError, match=words) as caught:
        read_vllm_bench(path)
    assert str(path) in str(caught.value)


def test_different_loads_are_not_compared(tmp_path: Path) -> None:
    one = read_vllm_bench(written(tmp_path / "a.json"))
    other = read_vllm_bench(written(tmp_path / "b.json", max_concurrency=8))
    check_same_load({"original": one, "12": one})
    with pytest.raises(EvalUsageError, match="max_concurrency 64, that of 12 with 8"):
        check_same_load({"original": one, "12": other})
