"""`prune.verify`: re-check an exported or cut checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prune.model.settings import OriginSettings
from prune.serving.settings import RuntimeSettings
from prune.settings import fields_of, takes, validated


class VerifyArguments(RuntimeSettings, OriginSettings):
    """Everything that `prune verify` can be told beside the checkpoint."""


@takes(VerifyArguments)
def verify(directory: str | Path, **settings: Any) -> dict[str, Any]:
    """Re-check an exported checkpoint: hashes, loading, finite weights, recorded logits; a cut one but for the logits.

        prune.verify("checkpoint")

    Args:
        directory: what `prune export` or `prune cut` wrote, here or on the hub.

    Raises:
        UsageError: neither a manifest nor the record of a cut.
        PruneError: something differs; every difference is named. Or a named runtime reads the config wrongly.
    """
    from prune.checkpoint.directory import read_config
    from prune.checkpoint.source import locate
    from prune.packaging.manifest import MANIFEST
    from prune.packaging.verify import verify_export
    from prune.serving.check import require_readable
    from prune.serving.installed import warn_of_other_versions
    from prune.serving.names import NAMES
    from prune.serving.readers import readings
    from prune.surgery.config_fields import check_skips
    from prune.surgery.record import read_record, verify_cut

    asked = validated(VerifyArguments, settings)
    source = locate(directory, **fields_of(OriginSettings, asked), whole=True)
    exported = (source.directory / MANIFEST).exists()
    record = None if exported else read_record(source.directory)
    if not exported and record is None:  # a config that cannot be kept says more than a missing record
        check_skips(read_config(source.directory, source.allow_links))
    found = verify_export(source) if record is None else verify_cut(source, record)
    config = read_config(source.directory, source.allow_links)
    check_skips(config)
    warn_of_other_versions(asked.runtime or NAMES)
    require_readable(config, asked.runtime)
    return found | {"runtimes": [reading.as_dict() for reading in readings(config)]}
