"""`prune.verify`: re-check an exported or cut checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prune.model.settings import OriginSettings
from prune.settings import takes, validated


class VerifyArguments(OriginSettings):
    """Everything that `prune verify` can be told beside the checkpoint."""


@takes(VerifyArguments)
def verify(directory: str | Path, **settings: Any) -> dict[str, Any]:
    """Re-check an exported checkpoint: hashes, loading, finite weights, recorded logits; a cut one but for the logits.

    Args:
        directory: what `prune export` or `prune cut` wrote, here or on the hub.

    Raises:
        UsageError: neither a manifest nor the record of a cut.
        PruneError: something differs; every difference is named.
    """
    from prune.checkpoint.source import locate
    from prune.packaging.manifest import MANIFEST
    from prune.packaging.verify import verify_export
    from prune.surgery.record import read_record, verify_cut

    source = locate(directory, **validated(VerifyArguments, settings).model_dump(), whole=True)
    if not (source.directory / MANIFEST).exists() and (record := read_record(source.directory)):
        return verify_cut(source, record)
    return verify_export(source)
