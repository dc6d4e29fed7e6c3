"""How much memory a model needs at the worst moment of a run: its weights, and what came on top of them.

On an accelerator torch counts what it allocates. A CPU has no such count, so the kernel's is used: the process's
resident set is brought down to what is in use, its high-water mark is reset (Linux, `/proc/self/clear_refs`), and what
the run adds above the start is the model's. The weights are counted from their tensors, because other models may share
the process. Assumption: nothing else in the process allocates meanwhile. Memory that was given back and that the
allocator keeps counts, as it does when serving. The kernel counts in batches: on a CPU a figure is good to about a
megabyte.
"""

from __future__ import annotations

import ctypes
import gc
import itertools
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROCESS = Path("/proc/self")


def peak_memory_bytes(model: Any, run: Callable[[], object]) -> int | None:
    """Bytes of the weights and of the most that `run` held beside them; None on a CPU that is not Linux's.

    Args:
        model: causal `transformers` model that `run` uses.
        run: called once.
    """
    import torch

    if model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(model.device)
        run()
        return torch.cuda.max_memory_allocated(model.device)
    if model.device.type != "cpu" or not sys.platform.startswith("linux"):
        return None
    try:
        return _weights(model) + _growth(run)
    except OSError:  # a container may hide or lock these files
        return None


def _growth(run: Callable[[], object]) -> int:
    """Most bytes resident at any moment of `run`, above those before it."""
    # Garbage that is collected during the run, and freed memory that the allocator keeps, would hide what it takes.
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    (PROCESS / "clear_refs").write_text("5")
    before = _resident("VmRSS")
    run()
    return max(0, _resident("VmHWM") - before)


def _resident(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB$", (PROCESS / "status").read_text(), re.MULTILINE)
    if found is None:
        raise OSError(f"{PROCESS}/status has no {field}")
    return int(found[1]) * 1024


def _weights(model: Any) -> int:
    """Bytes of all parameters and buffers as they lie in memory; what is tied counts once, what is on disk not."""
    stored = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in itertools.chain(model.parameters(), model.buffers())
        if not tensor.is_meta
    }
    return sum(stored.values())
