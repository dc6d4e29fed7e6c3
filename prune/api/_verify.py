"""`prune.verify`: re-check an exported or cut checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def verify(
    directory: str | Path,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    allow_links: bool = False,
) -> dict[str, Any]:
    """Re-check an exported checkpoint: hashes, loading, finite weights, recorded logits; a cut one but for the logits.

    Args:
        directory: what `prune export` or `prune cut` wrote, here or on the hub.
        revision, trust_remote_code, allow_links: see `prune.checkpoint.source.resolve`.

    Raises:
        UsageError: neither a manifest nor the record of a cut.
        PruneError: something differs; every difference is named.
    """
    from prune.checkpoint.source import locate
    from prune.packaging.manifest import MANIFEST
    from prune.packaging.verify import verify_export
    from prune.surgery.record import read_record, verify_cut

    source = locate(
        directory, revision=revision, trust_remote_code=trust_remote_code, allow_links=allow_links, whole=True
    )
    if not (source.directory / MANIFEST).exists() and (record := read_record(source.directory)):
        return verify_cut(source, record)
    return verify_export(source)
