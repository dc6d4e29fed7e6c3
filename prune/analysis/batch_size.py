"""A batch size that halves when memory runs out, so that hours of measuring do not end in a traceback.

Assumption: the work starts from nothing each time it is called and leaves nothing behind when it fails.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable

from prune.errors import PruneError

log = logging.getLogger("prune")


class BatchSize:
    """The size in use.

    Attributes:
        value: documents at a time; only ever halved.
    """

    def __init__(self, value: int) -> None:
        self.value = value

    def until_it_fits(self, work: Callable[[int], None], name: str) -> None:
        """Call `work` with the size, with half of it when memory runs out, and so on.

        Raises:
            PruneError: one document alone does not fit.
        """
        while not _fits(work, self.value):
            if self.value == 1:
                raise PruneError(f"{name}: out of memory with one document at a time; use a smaller seq_length")
            self.value //= 2
            log.warning("%s: out of memory, going on with batch_size %d", name, self.value)


def _fits(work: Callable[[int], None], size: int) -> bool:
    try:
        work(size)
        return True
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
    # Outside the handler, since the traceback holds the failed pass's tensors.
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return False


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that host or device memory is full (on CPU, torch raises a plain RuntimeError)."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "not enough memory" in str(error)
