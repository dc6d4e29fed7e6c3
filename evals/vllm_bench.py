"""Speeds measured by vLLM's own benchmark, read from the JSON that `vllm bench serve --save-result` writes.

Only this form is read: `vllm bench throughput` counts prompt and new tokens together, and no price per new token
follows from that. Assumption: all files of one comparison were measured under the same load; `check_same_load` refuses
others, since a throughput at another concurrency is another figure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals.errors import EvalUsageError

LOAD = ("num_prompts", "request_rate", "max_concurrency")
"""What must agree between files; each is compared where both have it."""


@dataclass(frozen=True)
class VllmBench:
    """One benchmark run.

    Attributes:
        output_tokens_per_s: new tokens of all requests over the wall time.
        input_tokens_per_s: prompt tokens over the same wall time: a share of the load, not the speed of prefill.
        mean_ttft_ms, mean_tpot_ms: time to the first token, and per token after it; None where absent.
        load: number of prompts, request rate, concurrency, as the file says.
    """

    output_tokens_per_s: float
    input_tokens_per_s: float
    mean_ttft_ms: float | None
    mean_tpot_ms: float | None
    load: dict[str, Any]

    @property
    def setting(self) -> str:
        """The load in words."""
        return "vllm bench serve, " + ", ".join(f"{key} {value}" for key, value in self.load.items())


def read_vllm_bench(path: Path) -> VllmBench:
    """Read one result file.

    Raises:
        EvalUsageError: no such file, not JSON, another benchmark's file, failed requests only, or a wrong number.
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf8"))
    except OSError as error:
        raise EvalUsageError(f"{path}: {error.strerror or error}") from None
    except ValueError as error:
        raise EvalUsageError(f"{path}: not JSON: {error}") from None
    if not isinstance(values, dict) or "output_throughput" not in values:
        raise EvalUsageError(
            f"{path}: no `output_throughput` there; give the file that `vllm bench serve --save-result` writes"
        )
    output = _positive(values, "output_throughput", path)
    seconds = _positive(values, "duration", path)
    return VllmBench(
        output_tokens_per_s=output,
        input_tokens_per_s=_positive(values, "total_input_tokens", path) / seconds,
        mean_ttft_ms=_positive(values, "mean_ttft_ms", path) if "mean_ttft_ms" in values else None,
        mean_tpot_ms=_positive(values, "mean_tpot_ms", path) if "mean_tpot_ms" in values else None,
        load={key: values[key] for key in LOAD if values.get(key) is not None},
    )


def check_same_load(found: Mapping[str, VllmBench]) -> None:
    """Refuse files measured under different loads.

    Raises:
        EvalUsageError: the first setting that differs, and between which models.
    """
    names = list(found)
    for name in names[1:]:
        for key in LOAD:
            one, other = found[names[0]].load.get(key), found[name].load.get(key)
            if one is not None and other is not None and one != other:
                raise EvalUsageError(
                    f"vllm bench of {names[0]} ran with {key} {one}, that of {name} with {other}: run both alike"
                )


def _positive(values: dict[str, Any], key: str, path: Path) -> float:
    value = values.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise EvalUsageError(f"{path}: {key} is {value!r}, not a positive number")
    return float(value)
