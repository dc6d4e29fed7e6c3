"""What a runtime must be told to serve a model with a draft, beyond naming it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prune.errors import PruneError
from prune.serving.layers import true_layers

ONE_CACHE = "--disable-hybrid-kv-cache-manager"
"""vLLM keeps layers with a sliding window and layers without in caches of their own, and a draft must use one alone."""


def vllm_flags(config: Mapping[str, Any]) -> str:
    """Flags of `vllm serve` beside `--speculative-config`, with a space in front; empty for most families.

    Seen with 0.32.0 on Gemma 3: without the flag it ends in "All drafting layers should belong to the same kv cache
    group", with it the answers are the original's.

    Args:
        config: config.json of the draft.
    """
    try:
        windows = {layer.windowed for layer in true_layers(dict(config))}
    except (PruneError, KeyError):  # a config of which nothing is known
        return ""
    return f" {ONE_CACHE}" if len(windows) == 2 else ""
