"""What an analysis was calibrated on, kept in it, so that a plan can read the same model and documents again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from prune.analysis.result import Analysis
from prune.data.rows import Documents


def record_calibration(
    analysis: Analysis,
    files: Mapping[str, Documents],
    *,
    seq_length: int,
    calib_num_samples: int | None,
    seed: int,
    dtype: str,
    revision: str | None,
    in_memory: bool = False,
) -> None:
    """Write `calibration` into the analysis: what `prune plan` needs where its criterion runs the model.

    Args:
        files: domain -> file or hub data set; documents that are in memory are recorded as null, for nobody can read
            them again.
        seq_length, calib_num_samples, seed: how documents were cut and drawn.
        dtype, revision: how the model was loaded; what its user allowed it is asked again.
        in_memory: the model was an object of the caller's, which no name leads back to.
    """
    analysis.info["calibration"] = {
        "files": {name: str(source) if isinstance(source, str | Path) else None for name, source in files.items()},
        "seq_length": seq_length,
        "calib_num_samples": calib_num_samples,
        "seed": seed,
        "dtype": dtype,
        "revision": revision,
        "in_memory": in_memory,
    }
