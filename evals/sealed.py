"""Records that know when they were altered: JSON with the hash of the rest of it, written last.

For what a killed or repeated run reads again and cannot make out of anything else. Against damage (a bad disk, an
editor, half a copy), not against a person who can compute a hash. Assumption: what is sealed is a JSON object.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

SEAL = "sha256"
READ_BYTES = 1 << 20


def sealed(value: dict[str, Any], *, indent: int | None = None) -> str:
    """JSON text of the object with its seal; a number that is not finite stands there as Python writes it."""
    value = json.loads(json.dumps(value))  # as it will be read: keys are text
    return json.dumps({**value, SEAL: _digest(value)}, indent=indent, ensure_ascii=False)


def unsealed(raw: bytes) -> dict[str, Any]:
    """The object without its seal.

    Raises:
        ValueError: not what `sealed` wrote; the reason in a few words.
    """
    try:
        value = json.loads(raw.decode("utf8"))
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"not JSON ({getattr(error, 'msg', 'nested too deeply')})") from None
    if not isinstance(value, dict) or SEAL not in value:
        raise ValueError("not the record that was written")
    seal = value.pop(SEAL)
    if seal != _digest(value):
        raise ValueError("altered since it was written")
    return value


def tree_hashes(directory: Path) -> dict[str, str]:
    """Name below the directory -> hex SHA-256 of every file there."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): file_hash(path) for path in files}


def file_hash(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _digest(value: dict[str, Any]) -> str:
    # Of the parsed value, not of its spelling: indentation and the order of keys are no damage.
    text = json.dumps(value, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
