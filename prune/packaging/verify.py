"""`prune verify`: ask an exported checkpoint again whether it is still what was judged.

Hashes first (cheap, and they find a flipped bit), then the structure of the files, then loading with every tensor
accounted for, finite weights, and the recorded logits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prune.checkpoint.source import Source, locate
from prune.errors import PruneError
from prune.packaging import replay
from prune.packaging.manifest import file_hashes, read_manifest


def verify_export(checkpoint: str | Path | Source) -> dict[str, Any]:
    """Check everything, hashes before headers; returns what was checked.

    Raises:
        UsageError: no manifest there.
        PruneError: files missing, added or changed, tensors missing or not finite, or other logits.
    """
    source = locate(checkpoint)
    directory = source.directory
    manifest = read_manifest(directory)
    compare_hashes(directory, manifest["files"])
    from prune.model.loading import load_model

    model = load_model(source, device="cpu")
    difference = replay.largest_difference(model, manifest["replay"])
    if not difference <= replay.TOLERANCE:
        raise PruneError(
            f"{directory}: answers differ from the recorded ones (relative difference {difference:.1e}, "
            f"tolerance {replay.TOLERANCE:.0e}): another library version, or other weights"
        )
    return {
        "directory": str(directory),
        "files": len(manifest["files"]),
        "tensors": len(model.state_dict()),
        "largest_relative_logit_difference": difference,
        "verdict": manifest.get("verdict"),
        "label": manifest.get("label"),
        "overrides": manifest.get("overrides", []),
    }


def compare_hashes(directory: Path, recorded: dict[str, str]) -> None:
    """Raise with every file that is missing, changed or unknown to the manifest."""
    found = file_hashes(directory)
    problems = [f"{name} is missing" for name in sorted(recorded.keys() - found.keys())]
    problems += [f"{name} was added" for name in sorted(found.keys() - recorded.keys())]
    problems += [f"{n} was changed" for n in sorted(found.keys() & recorded.keys()) if found[n] != recorded[n]]
    if problems:
        raise PruneError(f"{directory}: " + "; ".join(problems))
