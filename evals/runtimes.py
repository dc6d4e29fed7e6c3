"""Where the environments of other runtimes lie (`scripts/runtime` makes them), and their versions. Standard library."""

from __future__ import annotations

import os
from importlib.metadata import distributions
from pathlib import Path

STAMP = "installed.json"
"""Written last into an environment: without it an installation was cut off."""
TRIED = {
    "vllm": "0.32.0",
    "llama.cpp": "2026.10.11549",
    "mlx": "0.32.2",
    "ctranslate2": "4.8.5",
    "transformers-4.57": "4.57.6",
    "transformers-4.51": "4.51.3",
    "openvino": "2026.4.1",
    "onnxruntime": "0.18.0",
}
"""Environment -> the version, as it says itself, that was compared with transformers token by token."""
PACKAGES = {
    "llama.cpp": "xllamacpp",
    "mlx": "mlx-lm",
    "transformers-4.57": "transformers",
    "transformers-4.51": "transformers",
    "onnxruntime": "onnxruntime-genai",
}
"""Environment -> the package whose version it is, where that has another name."""


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


def installed_version(name: str) -> str | None:
    """The runtime's version by its packages' metadata, so that nothing is imported; None where it is not there."""
    if not installed(name):
        return None
    places = [str(path) for path in (home() / name).glob("lib/python*/site-packages")]
    found = next(iter(distributions(name=PACKAGES.get(name, name), path=places)), None)
    return found.version.partition("+")[0] if found else None  # "+cpu" is the build, not the version


def untried(name: str, version: str | None) -> str:
    """What to say of a version that is not the one compared with transformers; empty where it is, or there is none."""
    if version in (None, TRIED[name]):
        return ""
    known = f"what is known of it was seen with {TRIED[name]}"
    return f"{name} is {version} here; {known}, so compare its answers yourself (scripts/runtime_matrix.py)"
