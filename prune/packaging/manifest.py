"""`prune_manifest.json`: where an exported checkpoint comes from, what was done to it, and why it may ship.

Holds facts only; paths of the machine that made it, tokens and secrets never enter.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from evals.secrets import without_secrets
from prune.errors import PruneError, UsageError
from prune.files import sha256_file, sha256_json
from prune.versions import library_versions

MANIFEST = "prune_manifest.json"
FORMAT = 1


def file_hashes(directory: Path) -> dict[str, str]:
    """Relative name -> SHA-256 of every file, the manifest itself left out."""
    return {
        str(p.relative_to(directory)): sha256_file(p)
        for p in sorted(directory.rglob("*"))
        if p.is_file() and p.name != MANIFEST
    }


def weights_sha256(directory: Path) -> str:
    """One SHA-256 over the config and the weight files, by which evidence knows its checkpoint; empty for a hub id."""
    if not directory.is_dir():
        return ""
    return sha256_json({p.name: sha256_file(p) for p in [directory / "config.json", *directory.glob("*.safetensors")]})


def without_paths(value: Any) -> Any:
    """A copy of a JSON value without tokens, and with every absolute path that exists here reduced to its last name."""
    if isinstance(value, dict):
        return {key: without_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_paths(item) for item in value]
    if isinstance(value, str) and value.startswith("/") and len(value) < 1024 and Path(value).exists():
        return Path(value).name
    return without_secrets(value) if isinstance(value, str) else value


def build_manifest(directory: Path, facts: dict[str, Any], replay: dict[str, Any]) -> dict[str, Any]:
    """The manifest of a finished checkpoint directory.

    Args:
        directory: all files but the manifest are there.
        facts: `source`, `revision`, `source_sha256`, `plan`, `data`, `seed`, `healing`, `evidence`, `verdict`,
            `label`, `overrides`, `cut`, `quantization`, `variant_of`; those that are known.
        replay: recorded logits, from `replay.record`.
    """
    return {
        "format": FORMAT,
        **facts,
        "versions": library_versions(),
        "files": file_hashes(directory),
        "replay": replay,
    }


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of an exported checkpoint.

    Raises:
        UsageError: there is none.
        PruneError: it is damaged or of another format.
    """
    path = directory / MANIFEST
    if not path.is_file():
        raise UsageError(f"{directory}: no {MANIFEST} there; give the directory that `prune export` wrote")
    try:
        manifest = json.loads(path.read_text(encoding="utf8"))
    except ValueError as error:
        raise PruneError(f"{path}: damaged: {error}") from None
    if (
        not isinstance(manifest, dict)
        or manifest.get("format") != FORMAT
        or not isinstance(manifest.get("files"), dict)
    ):
        raise PruneError(f"{path}: not a manifest of format {FORMAT}")
    return manifest
