"""A place for caches, also where there is no home: a container with any user number, a read-only or missing HOME.

Libraries ask for the home directory or the user's name in their own ways, and some of them end in a traceback. Where
there is a usable home nothing is changed; where there is none, `settle` points them to a private temporary directory
by the environment variables that they read. Assumption: it runs before they are imported.
"""

from __future__ import annotations

import contextlib
import functools
import os
import stat
import tempfile
from pathlib import Path

FALLBACKS = {
    "XDG_CACHE_HOME": "",
    "MPLCONFIGDIR": "matplotlib",
    "TORCHINDUCTOR_CACHE_DIR": "torchinductor",
    "TRITON_CACHE_DIR": "triton",
    "HF_HOME": "huggingface",
    "HF_DATASETS_CACHE": "huggingface/datasets",
    "HF_MODULES_CACHE": "huggingface/modules",
}
"""Environment variable -> where below the private directory it points when there is no usable home."""
USER = ("LOGNAME", "USER", "LNAME", "USERNAME")
"""What `getpass.getuser` reads before the password database."""


def cache_directory(name: str) -> Path:
    """An existing directory that can be written, for what `evals` can make again."""
    import platformdirs

    with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: no home at all
        path = platformdirs.user_cache_path("evals", appauthor=False) / name
        path.mkdir(parents=True, exist_ok=True)
        if os.access(path, os.W_OK | os.X_OK):
            return path
    path = _private() / "evals" / name
    path.mkdir(parents=True, exist_ok=True)
    return path


def settle() -> None:
    """Give libraries a place for their caches, and a user name, where the system has none for this process."""
    if not any(map(os.environ.get, USER)) and not _has_password_entry():
        os.environ["USER"] = f"uid{os.getuid()}"
    home = os.environ.get("HOME") or os.path.expanduser("~")
    if os.path.isabs(home) and os.access(home, os.W_OK | os.X_OK):
        return
    if not os.path.isdir(home):
        os.environ["HOME"] = str(_private())
    read_only = Path(home) / ".cache" / "huggingface"
    for name, below in FALLBACKS.items():
        if name in os.environ or (name == "HF_HOME" and read_only.is_dir()):  # models there can still be read
            continue
        if name == "HF_DATASETS_CACHE" and _writable(os.environ.get("HF_HOME", "")):
            continue
        os.environ[name] = str(_private() / below)


def _writable(path: str) -> bool:
    return bool(path) and os.access(path, os.W_OK | os.X_OK)


def _has_password_entry() -> bool:
    import pwd

    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        return False
    return True


@functools.cache
def _private() -> Path:
    """A directory of this user's only, the same in every process where that is safe."""
    path = Path(tempfile.gettempdir()) / f"depth-prune-{os.getuid()}"
    with contextlib.suppress(OSError):
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022:
            return path
    return Path(tempfile.mkdtemp(prefix="depth-prune-"))
