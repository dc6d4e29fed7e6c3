"""What several models cost, measured in turn: their size, and their speed at one batch size and context."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evals.cost import Footprint, footprint
from evals.throughput import Throughput, measure_side_by_side


@dataclass(frozen=True)
class Measured:
    """Size and speed of one model."""

    footprint: Footprint
    throughput: Throughput

    def to_dict(self) -> dict[str, Any]:
        """As JSON: the footprint's fields, and `throughput`."""
        return {**self.footprint.to_dict(), "throughput": self.throughput.to_dict()}


def measure_models(
    models: Mapping[str, Any],
    directories: Mapping[str, str | Path],
    *,
    batch_size: int,
    prompt_tokens: int,
    new_tokens: int,
    repeats: int,
) -> dict[str, Measured]:
    """Size and speed of every model, by name.

    Args:
        models: loaded ones.
        directories: where each lies, if on disk; `bytes` are those of its safetensors files where there are any.
        batch_size, prompt_tokens, new_tokens, repeats: see `evals.throughput.measure_side_by_side`.

    Raises:
        EvalUsageError: sizes that cannot be measured.
    """
    speeds = measure_side_by_side(
        models, batch_size=batch_size, prompt_tokens=prompt_tokens, new_tokens=new_tokens, repeats=repeats
    )
    found = {}
    for name, model in models.items():
        size, stored = footprint(model), _stored(Path(directories[name])) if name in directories else 0
        found[name] = Measured(replace(size, bytes=stored) if stored else size, speeds[name])
    return found


def _stored(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.glob("*.safetensors")) if directory.is_dir() else 0
