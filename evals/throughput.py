"""How fast a model reads and writes, measured: prefill and decoding in tokens per second, memory at the peak.

Knows nothing of text: prompts are random token ids, and every sequence of a batch has the same length, so nothing is
padded. Assumptions: one process, greedy decoding through the model's own KV cache, one warm-up before anything is
counted. Several models are measured in turn, repeat by repeat, so that a noisy machine slows them alike.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from evals.errors import EvalUsageError
from evals.peak_memory import peak_memory_bytes


@dataclass(frozen=True)
class Throughput:
    """Speed at one batch size and context; rates are batch x tokens / median seconds.

    Attributes:
        prefill_seconds, decode_seconds: one entry a repeat.
        peak_memory_bytes: of one more prefill and decode, weights included (`peak_memory`); None where unknown.
    """

    device: str
    threads: int | None
    dtype: str
    batch_size: int
    prompt_tokens: int
    new_tokens: int
    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    prefill_seconds: tuple[float, ...]
    decode_seconds: tuple[float, ...]
    peak_memory_bytes: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def measure_side_by_side(
    models: Mapping[str, Any], *, batch_size: int, prompt_tokens: int, new_tokens: int, repeats: int = 3
) -> dict[str, Throughput]:
    """Measure several models in turn: one warm-up each, then repeat 1 of every model, repeat 2 of every model ...

    Every second round runs in the opposite order, so that drift of the machine favours none.

    Raises:
        EvalUsageError: sizes below 1 (2 for new_tokens), or a context the model does not have.
    """
    if min(batch_size, prompt_tokens, repeats) < 1 or new_tokens < 2:
        raise EvalUsageError("batch_size, prompt_tokens and repeats must be at least 1, new_tokens at least 2")
    for name, model in models.items():
        context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        if context and prompt_tokens + new_tokens > context:
            raise EvalUsageError(f"{name}: {prompt_tokens} + {new_tokens} tokens exceed its context of {context}")
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
    for model in models.values():
        _once(model, batch_size, prompt_tokens, min(new_tokens, 4))
    for repeat in range(repeats):
        order = list(models) if repeat % 2 == 0 else list(models)[::-1]
        for name in order:
            times[name].append(_once(models[name], batch_size, prompt_tokens, new_tokens))
    peaks = {  # in a run of its own, so that counting slows nothing that is timed
        name: peak_memory_bytes(model, partial(_once, model, batch_size, prompt_tokens, new_tokens))
        for name, model in models.items()
    }
    return {
        name: _summary(model, times[name], peaks[name], batch_size, prompt_tokens, new_tokens)
        for name, model in models.items()
    }


def _summary(
    model: Any, times: list[tuple[float, float]], peak: int | None, batch_size: int, prompt: int, new: int
) -> Throughput:
    import torch

    prefill, decode = zip(*times, strict=True)
    return Throughput(
        device=torch.cuda.get_device_name(model.device) if _on_cuda(model) else str(model.device.type),
        threads=None if _on_cuda(model) else torch.get_num_threads(),
        dtype=str(model.dtype).removeprefix("torch."),
        batch_size=batch_size,
        prompt_tokens=prompt,
        new_tokens=new,
        prefill_tokens_per_s=batch_size * prompt / statistics.median(prefill),
        # The first new token comes out of the prefill; the loop makes the others.
        decode_tokens_per_s=batch_size * (new - 1) / statistics.median(decode),
        prefill_seconds=prefill,
        decode_seconds=decode,
        peak_memory_bytes=peak,
    )


def _once(model: Any, batch_size: int, prompt_tokens: int, new_tokens: int) -> tuple[float, float]:
    """Seconds of one prefill and of the decoding steps after it."""
    import torch

    generator = torch.Generator().manual_seed(0)
    vocabulary = model.config.get_text_config().vocab_size
    ids = torch.randint(vocabulary, (batch_size, prompt_tokens), generator=generator).to(model.device)  # [B, P]
    with torch.inference_mode():
        _synchronize(model)
        start = time.perf_counter()
        output = model(ids, use_cache=True, logits_to_keep=1)
        token = output.logits[:, -1:].argmax(-1)  # [B, 1]
        _synchronize(model)
        middle = time.perf_counter()
        for _ in range(new_tokens - 1):
            output = model(token, past_key_values=output.past_key_values, use_cache=True, logits_to_keep=1)
            token = output.logits[:, -1:].argmax(-1)  # [B, 1]
        _synchronize(model)
        end = time.perf_counter()
    return middle - start, end - middle


def _on_cuda(model: Any) -> bool:
    return bool(model.device.type == "cuda")


def _synchronize(model: Any) -> None:
    import torch

    if _on_cuda(model):
        torch.cuda.synchronize(model.device)
