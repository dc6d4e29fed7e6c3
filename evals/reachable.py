"""Which tasks' data cannot be had where there is no hub: said before anything runs, not after a model is loaded.

Assumption: a machine that cannot find the hub's name is as good as offline; otherwise the hub is taken to have what it
is asked for.
"""

from __future__ import annotations

import contextlib
import functools
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit


def absent_data(settings: Mapping[str, Any]) -> str | None:
    """The data set of a task that lies on the hub while that is out of reach and nothing of it is cached.

    Args:
        settings: of the task's lm-eval file.
    """
    path, name = str(settings.get("dataset_path") or ""), settings.get("dataset_name")
    if "/" not in path or Path(path).exists() or not _offline():
        return None
    return None if _cached(path, name if isinstance(name, str) else None) else path


def _offline() -> bool:
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE or not _known(urlsplit(constants.ENDPOINT).hostname or "")


@functools.cache
def _known(host: str) -> bool:
    """Whether the host's name has an address; a lookup, no connection."""
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        return False
    return True


@functools.cache
def _cached(path: str, name: str | None) -> bool:
    from datasets import load_dataset_builder

    with _without_hub():
        try:
            load_dataset_builder(path, name)
        except Exception as error:
            return not is_unreachable(error)
    return True


def is_unreachable(error: Exception) -> bool:
    """Whether an error of the libraries means that the hub could not be asked."""
    reason = str(error)
    return isinstance(error, ConnectionError) or "Hub" in reason or "offline" in reason.lower()


@contextlib.contextmanager
def _without_hub() -> Iterator[None]:
    """Keep both libraries from trying five times each to reach it."""
    from datasets import config
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, config.HF_HUB_OFFLINE = before
