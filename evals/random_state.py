"""The caller's random state, kept while a test seeds and draws as it pleases."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Afterwards Python, numpy and torch (every device) draw on as if nothing had happened; also a decorator.

    A model that is tested while it trains must not have its dropout restarted by every test.
    """
    import numpy as np
    import torch

    python, generator = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(generator)
