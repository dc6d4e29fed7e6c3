"""Versions of what a result depends on, read without importing anything."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

LIBRARIES = (
    "torch",
    "transformers",
    "peft",
    "lm_eval",
    "safetensors",
    "bitsandbytes",
    "datasets",
    "numpy",
    "scipy",
    "gguf",
)


def prune_version() -> str:
    """The installed version of this project."""
    try:
        return version("depth-prune")
    except PackageNotFoundError:
        return "unknown"


def library_versions() -> dict[str, str]:
    """Name -> version of Python, this project and the libraries that decide figures."""
    found = {"python": platform.python_version(), "depth-prune": prune_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
