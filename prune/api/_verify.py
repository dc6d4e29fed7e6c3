"""`prune.verify`: re-check an exported or cut checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def verify(directory: str | Path) -> dict[str, Any]:
    """Re-check an exported checkpoint: hashes, loading, finite weights, recorded logits; a cut one but for the logits.

    Args:
        directory: what `prune export` or `prune cut` wrote.

    Raises:
        UsageError: neither a manifest nor the record of a cut.
        PruneError: something differs; every difference is named.
    """
    from prune.packaging.manifest import MANIFEST
    from prune.packaging.verify import verify_export
    from prune.surgery.record import read_record, verify_cut

    if not (Path(directory) / MANIFEST).exists() and (record := read_record(Path(directory))):
        return verify_cut(Path(directory), record)
    return verify_export(Path(directory))
