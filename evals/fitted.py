"""lm-eval's `HFLM` whose batch size is chosen by memory, one for each task, where it is "auto".

lm-eval's own "auto" tries batches of the model's whole context until one does not run out of memory, which on a CPU is
minutes of work and ends in the system's killer. Here it is reckoned: what a sequence of the task's longest item takes,
into a share of what is free. The size is a power of two up to `LARGEST`, so that it seldom differs between two runs.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lm_eval.models.huggingface import HFLM

LARGEST = {"cpu": 32}
"""By kind of device; on a CPU larger ones are not faster."""
LARGEST_ELSEWHERE = 64  # lm-eval's own
SCORED_AT_ONCE = {"cpu": 512}
"""Tokens of a pass that wants all logits: from here on a CPU is busy, and beyond it the logits leave its caches."""
SHARE = 0.5
"""Of the free memory: the estimate counts what must be there, not what libraries add."""
CGROUP = Path("/sys/fs/cgroup")


class FittedHFLM(HFLM):
    """`HFLM` for a loaded causal model; a batch size of "auto" (or "auto:N") means by memory."""

    batch_size_per_gpu: int

    def __init__(self, *, batch_size: int | str, **options: Any) -> None:
        self._by_memory = str(batch_size).startswith("auto")
        super().__init__(batch_size=1 if self._by_memory else batch_size, **options)

    def _loglikelihood_tokens(self, requests: Any, *args: Any, **options: Any) -> Any:
        longest = max((len(context) + len(continuation) for _, context, continuation in requests), default=1)
        with self._sized(longest, all_logits=True):
            return super()._loglikelihood_tokens(requests, *args, **options)

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> Any:
        """As lm-eval's; the longest text sets the batch size."""
        with self._sized(self._longest([request.args[0] for request in requests]), all_logits=True):
            return super().loglikelihood_rolling(requests, disable_tqdm)

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> Any:
        """As lm-eval's; the longest prompt and the longest answer set the batch size."""
        new = max((request.args[1].get("max_gen_toks", self.max_gen_toks) for request in requests), default=0)
        longest = self._longest([request.args[0] for request in requests]) + int(new)
        with self._sized(longest, all_logits=False):
            return super().generate_until(requests, disable_tqdm)

    def _longest(self, texts: Sequence[str]) -> int:
        """Tokens of the longest text, which is one of the longest by bytes."""
        largest = sorted(texts, key=lambda text: len(text.encode()))[-8:]
        return max((len(self.tok_encode(text)) for text in largest), default=1)

    @contextlib.contextmanager
    def _sized(self, tokens: int, *, all_logits: bool) -> Iterator[None]:
        before: int = self.batch_size
        if self._by_memory:
            self.batch_size_per_gpu = fitting(self.model, min(tokens, self.max_length), all_logits=all_logits)
        try:
            yield
        finally:
            self.batch_size_per_gpu = before


def fitting(model: Any, tokens: int, *, all_logits: bool) -> int:
    """How many sequences of so many tokens fit into the free memory of the model's device, as a power of two.

    Args:
        all_logits: logits of every position are wanted, not of the last alone.
    """
    room = int(SHARE * free_memory(model.device) / sequence_bytes(model, tokens, all_logits=all_logits))
    room = min(room, LARGEST.get(model.device.type, LARGEST_ELSEWHERE))
    if all_logits and model.device.type in SCORED_AT_ONCE:
        room = min(room, math.ceil(SCORED_AT_ONCE[model.device.type] / tokens))
    return 1 << (room.bit_length() - 1) if room else 1


def sequence_bytes(model: Any, tokens: int, *, all_logits: bool) -> int:
    """What a forward pass of one sequence of T tokens holds at once, in bytes.

    T x (2 V [logits and their log-softmax; 1 position without `all_logits`] + 4 d + 3 d_ff [one layer's streams and
    MLP] + 2 L H_kv D [the KV cache] + 2 H D [one layer's keys and values, repeated for all heads]) numbers, and the
    T x T mask.
    """
    config, size = model.config.get_text_config(), model.dtype.itemsize
    heads = config.num_attention_heads
    of_head = getattr(config, "head_dim", None) or config.hidden_size // heads
    shared = getattr(config, "num_key_value_heads", None) or heads
    wide = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    wide = max(wide) if isinstance(wide, list | tuple) else wide
    per_token = 4 * config.hidden_size + 3 * wide + 2 * of_head * (config.num_hidden_layers * shared + heads)
    logits = 2 * config.vocab_size * (tokens if all_logits else 1)
    return int(size * (tokens * per_token + logits) + 4 * tokens**2)


def free_memory(device: Any) -> int:
    """Bytes that may still be allocated on a device; on a CPU within the container's limit."""
    if device.type == "cuda":
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    import psutil

    free = psutil.virtual_memory().available
    with contextlib.suppress(OSError, ValueError):  # "max" is no number: no limit
        limit = int((CGROUP / "memory.max").read_text())
        free = min(free, limit - int((CGROUP / "memory.current").read_text()))
    return max(int(free), 0)
