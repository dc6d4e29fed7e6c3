"""Where the environments of other runtimes lie (`scripts/runtime` makes them). Standard library only."""

from __future__ import annotations

import json
import os
from pathlib import Path

STAMP = "installed.json"
"""Written last into an environment: without it an installation was cut off."""


def home() -> Path:
    """The folder that holds one environment a runtime: DEPTH_PRUNE_RUNTIMES, else in the user's cache."""
    if named := os.environ.get("DEPTH_PRUNE_RUNTIMES"):
        return Path(named)
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(cache) / "depth-prune" / "runtimes"


def python_of(name: str) -> Path:
    """The environment's interpreter, whether it is there or not."""
    return home() / name / "bin" / "python"


def installed(name: str) -> bool:
    """Whether the environment was made to its end."""
    return (home() / name / STAMP).is_file()


def versions(name: str) -> dict[str, str]:
    """Package -> version in an installed environment; empty where there is none."""
    try:
        frozen = json.loads((home() / name / STAMP).read_text(encoding="utf8"))["versions"]
    except (OSError, ValueError, KeyError):
        return {}
    return dict(line.split("==", 1) for line in frozen if "==" in line)
