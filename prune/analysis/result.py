"""The result of an analysis: named arrays plus a readable sidecar.

`measurements.safetensors` holds float32 arrays under the keys of README.md (`name[/part][/statistic]`, a second
group under `by_domain/NAME/...`, interval ends under the same key with `.lo` / `.hi`); `analysis.json` holds the rest.
What was not measured is absent, never zero.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from prune.errors import PruneError, UsageError
from prune.files import staged_directory, write_json


@dataclass
class Analysis:
    """Measurements of one model on one calibration set.

    Attributes:
        info: JSON-serialisable: `model`, `revision`, `num_layers`, `hashes`, `data`, `seed`, `versions`, `scalars`,
            `phase_changes`, `stability`, `warnings`.
        measurements: key -> float32 array; shapes as in README.md.
    """

    info: dict[str, Any]
    measurements: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def num_layers(self) -> int:
        return int(self.info["num_layers"])

    def __getitem__(self, key: str) -> np.ndarray:
        """A measurement.

        Raises:
            PruneError: it was not measured; names what to pass to `--measure`.
        """
        if key not in self.measurements:
            raise PruneError(f"the analysis holds no {key!r}: run `prune analyze` with a --measure that gives it")
        return self.measurements[key]

    def of_domain(self, key: str, domain: str) -> np.ndarray:
        """A measurement on one domain's documents only."""
        return self[f"by_domain/{domain}/{key}"]

    def save(self, directory: Path) -> None:
        """Write both files; the directory appears only when complete.

        Raises:
            UsageError: the directory is not empty.
        """
        from safetensors.numpy import save_file

        arrays = {k: np.ascontiguousarray(v, dtype=np.float32) for k, v in sorted(self.measurements.items())}
        with staged_directory(directory) as staging:
            save_file(arrays, staging / "measurements.safetensors")
            write_json(staging / "analysis.json", self.info)

    @classmethod
    def load(cls, directory: Path) -> Analysis:
        """Read both files.

        Raises:
            UsageError: one is missing.
        """
        from safetensors.numpy import load_file

        for name in ("analysis.json", "measurements.safetensors"):
            if not (directory / name).is_file():
                raise UsageError(f"{directory}: no {name} there; give the -o directory of `prune analyze`")
        info = json.loads((directory / "analysis.json").read_text(encoding="utf8"))
        return cls(info, load_file(directory / "measurements.safetensors"))
