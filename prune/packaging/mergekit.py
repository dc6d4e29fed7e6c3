"""`mergekit_config.yml`: the same cut in the words of the common layer-surgery tool, for readers who know it.

Assumption: mergekit's `passthrough` over `layer_range`s, whose end is exclusive. It is a record, not the way the
checkpoint was made: for several families mergekit refuses the recipe or writes another model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evals.secrets import redacted
from prune.files import write_exact
from prune.layer_runs import runs

MERGEKIT = "mergekit_config.yml"


def layer_ranges(keep: Sequence[int]) -> list[list[int]]:
    """Kept layers as half-open ranges: [0, 1, 2, 5] -> [[0, 3], [5, 6]]."""
    return [[first, last + 1] for first, last in runs(keep)]


def write_mergekit(directory: Path, source: str, keep: Sequence[int], dtype: str | None) -> None:
    """Write the recipe beside the checkpoint."""
    import yaml

    slices = [{"sources": [{"model": source, "layer_range": span}]} for span in layer_ranges(keep)]
    recipe: dict[str, Any] = {"merge_method": "passthrough", "slices": slices}
    if dtype:
        recipe["dtype"] = dtype
    write_exact(directory / MERGEKIT, yaml.safe_dump(redacted(recipe), sort_keys=False))
