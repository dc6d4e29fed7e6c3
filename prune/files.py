"""Writing that cannot leave a half-made file under a final name, and hashing of what was written.

The only module that renames into place. A directory is built as a hidden sibling of its target and renamed when
complete; a file is written beside its target and replaced. Both survive SIGKILL at any point: the target is absent
or complete. Leftovers of a killed run carry the suffix `.partial` and are removed by the next one.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import functools
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from filelock import lock_descriptor

from evals.sealed import sealed, unsealed
from evals.secrets import redacted, without_secrets
from evals.text import LONE_SURROGATE, NotText, read_text, require_text
from evals.visible import visible
from prune.errors import PruneError, UsageError

if TYPE_CHECKING:
    from pydantic import BaseModel

Model = TypeVar("Model", bound="BaseModel")
log = logging.getLogger("prune")
CHUNK = 1 << 20
LONGEST_NAME = 255 - len("..partial")
"""Bytes of a target's name, beside which a hidden one is written first."""
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.EBADF)
"""What a file system without locks answers: Lustre, old NFS, FUSE; EBADF is NFS asked for a lock on a directory."""
BUSY = "{}: another process is writing it; wait for it, or give -o another directory"


def utc(seconds: float) -> str:
    """A moment since the epoch as people read it: '2026-11-24 00:40 UTC'."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while chunk := handle.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """Hex SHA-256 of a JSON value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def sha256_tree(directory: Path) -> str:
    """Hex SHA-256 over the relative names and contents of all files below a directory."""
    entries = {str(p.relative_to(directory)): sha256_file(p) for p in sorted(directory.rglob("*")) if p.is_file()}
    return sha256_json(entries)


def write_text(path: Path, text: str) -> None:
    """Write a text that people read, atomically: without secrets, and with unseen characters written out."""
    write_exact(path, visible(without_secrets(text)))


def write_exact(path: Path, text: str) -> None:
    """Write a text file atomically (UTF-8, whatever the locale) as it is: what programs read, such as config.json."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("w", encoding="utf8") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)  # a full disk, most often: the half file would only take its space
        name_target(error, path)
        raise


def write_sealed(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON object atomically, with the hash of the rest of it: see `evals.sealed`."""
    write_text(path, sealed(redacted(value), indent=2) + "\n")


def read_sealed(path: Path) -> dict[str, Any]:
    """What `write_sealed` wrote.

    Raises:
        ValueError: damaged; how, in a few words.
        OSError: it cannot be read.
    """
    return unsealed(path.read_bytes())


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically, indented, with a final newline and no secrets; non-finite numbers are refused."""
    write_text(path, json.dumps(redacted(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_exact_json(path: Path, value: Any) -> None:
    """Write JSON that programs read, as it is; Infinity and NaN, which some families' configs hold, included."""
    write_exact(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json_file(path: Path) -> Any:
    """The value of a JSON file of ours, or of the user's.

    Raises:
        UsageError: not UTF-8, not JSON, or a string in it that UTF-8 cannot hold.
    """
    try:
        value = json.loads(read_text(path))
    except NotText as error:
        raise UsageError(f"{path}: {error}") from None
    except json.JSONDecodeError as error:
        raise UsageError(f"{path}: not JSON ({error.msg} at line {error.lineno})") from None
    require_text(value, str(path))
    return value


def follow_umask(*paths: Path) -> None:
    """Give files the mode that new files have here; safetensors makes its own readable by the owner alone."""
    mask = os.umask(0)
    os.umask(mask)
    for path in paths:
        path.chmod(0o666 & ~mask)


def read_json_as(kind: type[Model], path: Path, *, name: str, writer: str) -> Model:
    """Read a JSON file and check every field.

    Args:
        name: what messages call such a file.
        writer: what messages say of where one comes from.

    Raises:
        UsageError: missing file, not JSON, or a field that is wrong (named).
    """
    from pydantic import ValidationError

    if not path.is_file():
        raise UsageError(f"{path}: no such {name}; {writer}")
    try:
        return kind.model_validate(read_json_file(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or name
        raise UsageError(f"{path}: no valid {name} ({where}: {first['msg']}); {writer}") from None


def require_utf8(path: Path) -> None:
    """Refuse a place whose whole name no result file could hold: Linux allows any bytes in a name.

    Raises:
        UsageError: the name, or that of a directory above it, is not UTF-8.
    """
    whole = Path(os.path.abspath(path))
    if bad := next((part for part in whole.parts if LONE_SURROGATE.search(part)), None):
        shown = os.fsencode(path).decode("utf8", "backslashreplace")
        raise UsageError(f"{shown}: the name {os.fsencode(bad)!r} is not UTF-8: rename it (`convmv` does many at once)")


def refuse_non_empty(target: Path, flag: str = "-o") -> None:
    """Refuse a target that is no new directory and cannot become one, before any work is done for it.

    Raises:
        UsageError: the target exists and is not an empty directory, its name is not UTF-8 or too long, it lies below a
            file, or it is one that nothing can be renamed to: a link, a mount point, the directory one is in.
    """
    require_utf8(target)
    whole = Path(os.path.abspath(target))
    if below := next((part for part in whole.parents if part.is_file()), None):
        raise UsageError(f"{target}: {below} is a file: give {flag} another place")
    if len(os.fsencode(whole.name)) > LONGEST_NAME:
        raise UsageError(f"{str(target)[:60]}...: a name of more than {LONGEST_NAME} bytes: give {flag} a shorter one")
    if target.is_symlink():
        raise UsageError(f"{target}: is a symbolic link: give {flag} a new directory")
    if whole == Path.cwd() or whole.is_mount():
        raise UsageError(f"{target}: cannot be replaced while it is in use: give {flag} a new directory in it")
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise UsageError(f"{target} exists and is not empty: give {flag} a new directory, or remove it first")


@contextlib.contextmanager
def staged_directory(target: Path) -> Iterator[Path]:
    """Yield a hidden sibling directory; on success it becomes `target` in one rename, on failure it is removed.

    The staging directory is locked while it is in use, so that two processes never write one target.

    Raises:
        UsageError: the target exists and is not an empty directory.
        PruneError: another process is writing the same target.
    """
    refuse_non_empty(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = target.with_name(f".{target.name}.partial")
    if staging.exists():
        os.close(claim(staging, BUSY.format(target)))  # left by a killed run, unless it is locked
        shutil.rmtree(staging)
    try:
        staging.mkdir()
    except FileExistsError:
        raise PruneError(BUSY.format(target)) from None
    try:
        lock = claim(staging, BUSY.format(target))
    except OSError:
        staging.rmdir()
        raise
    try:
        yield staging
        _sync(staging)
        if target.is_dir():
            target.rmdir()
        staging.rename(target)
        sync_directory(target.parent)
    except BaseException as error:
        shutil.rmtree(staging, ignore_errors=True)
        if isinstance(error, OSError):
            name_target(error, target)
        raise
    finally:
        os.close(lock)


def name_target(error: OSError, target: Path) -> None:
    """Have a failure to write name what was to be written: of a copy, Python names the source; of a write, nothing."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        error.filename, error.filename2 = str(target), None


def claim(path: Path, busy: str) -> int:
    """An open, locked descriptor of a directory, or of a file made when missing; the lock ends with the process.

    Where the file system has no locks, it goes on without, and says so once.

    Raises:
        PruneError: another process holds the lock, with the message `busy`; or the file is a symbolic link.
        OSError: the path cannot be opened, or locking fails for another reason.
    """
    if not path.is_dir():
        refuse_link(path)
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT, 0o666)
    try:
        held = lock_descriptor(descriptor, blocking=False)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            os.close(descriptor)
            raise
        held = True
        warn_of_no_locks()
    if not held:
        os.close(descriptor)
        raise PruneError(busy)
    return descriptor


def refuse_link(path: Path) -> None:
    """Refuse to write into a file that is a symbolic link: what it names would be made, or changed.

    Raises:
        PruneError: names it, with the cure.
    """
    if path.is_symlink():
        raise PruneError(f"{path} is a symbolic link: remove it, the file belongs into this directory itself")


def has_record_locks(directory: Path) -> bool:
    """Whether a directory's file system has POSIX record locks, which databases use; tried on a file without a name."""
    with tempfile.TemporaryFile(dir=directory) as probe:
        try:
            fcntl.lockf(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            return False
    return True


@functools.cache
def warn_of_no_locks() -> None:
    """Say once that nothing keeps two processes apart here."""
    log.warning("this file system has no locks: make sure that no other process writes to the same directory")


def _sync(directory: Path) -> None:
    for path in directory.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
    sync_directory(directory)


def sync_directory(directory: Path) -> None:
    """Have the names in a directory reach the disk, where the file system can."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # some file systems cannot sync a directory
            raise
    finally:
        os.close(descriptor)
