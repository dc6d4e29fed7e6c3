"""`prune.verify`: re-check an exported checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass


def verify(directory: str | Path) -> dict[str, Any]:
    """Re-check an exported checkpoint: hashes, loading, finite weights, recorded logits.

    Raises:
        UsageError: no manifest.
        PruneError: something differs; every difference is named.
    """
    from prune.packaging.verify import verify_export

    return verify_export(Path(directory))
