"""The run directory: stages that are skipped when nothing they depend on changed, and never half-written.

Knows nothing of models. A stage is a name, the values it depends on (hashed), the path it writes, and the work. Its
output is built beside its final place and renamed when complete; `state.json` records the hash of the inputs and of
the output, so that a resumed run redoes exactly the stages whose inputs changed or whose output is gone or altered.
One process at a time: the directory is locked.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prune.errors import PruneError, UsageError
from prune.files import claim, sha256_file, sha256_json, sha256_tree, staged_directory, write_json, write_text

log = logging.getLogger("prune")
FIRST_FILES = (".lock", ".state.json.partial")
"""What a run killed before its first state leaves; a directory with nothing else is as good as empty."""
LEFTOVERS = (".*.partial", ".*.old")
"""What a run killed while it wrote, or while it removed, leaves anywhere below."""


class RunDirectory:
    """A locked run directory.

    Attributes:
        root: the directory.
        redone: names of the stages that did work in this process, in order.
        kept: names of the stages whose earlier result was still valid.
    """

    def __init__(self, root: Path, *, resume: bool, guard: Callable[[], None] = lambda: None) -> None:
        """Open or create.

        Args:
            root: the directory.
            resume: go on with what it holds.
            guard: called before and after the work of every stage; raises when what stages read is no longer the same,
                and the stage is not recorded.

        Raises:
            UsageError: the directory is in use without `resume`, or holds something else.
            PruneError: another process runs in it.
        """
        self.root = root
        self._guard = guard
        self.redone: list[str] = []
        self.kept: list[str] = []
        existing = root.is_dir() and any(path.name not in FIRST_FILES for path in root.iterdir())
        if root.is_file():
            raise UsageError(f"{root} is a file: give -o a directory")
        if existing and not (root / "state.json").is_file():
            raise UsageError(f"{root} is not empty and holds no run: give -o a new directory")
        if existing and not resume:
            raise UsageError(f"{root} already holds a run: add --resume to go on with it, or give -o a new directory")
        root.mkdir(parents=True, exist_ok=True)
        busy = f"{root}: another run is working in this directory; wait for it or give -o another"
        self._lock: int | None = claim(root / ".lock", busy)
        for leftover in [path for pattern in LEFTOVERS for path in root.rglob(pattern)]:
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)
        self._state_path = root / "state.json"
        self.state: dict[str, Any] = {"stages": {}}
        if self._state_path.is_file():
            try:
                self.state = json.loads(self._state_path.read_text(encoding="utf8"))
            except ValueError as error:
                raise PruneError(f"{self._state_path}: damaged ({error}); remove it to start over") from None
        write_json(self._state_path, self.state)

    def close(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            os.close(self._lock)
        self._lock = None

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def stage(self, name: str, output: str, inputs: dict[str, Any], work: Callable[[Path], None]) -> str:
        """Do the work, or keep what an earlier run left.

        Args:
            name: unique in the run.
            output: path below the root; a directory, or a file if it has a suffix.
            inputs: JSON values that decide the result.
            work: called with the path to write; a directory exists and is empty, a file does not exist.

        Returns:
            Hash of the output, for the inputs of later stages.
        """
        self._guard()
        key, target = sha256_json(inputs), self.root / output
        known = self.state["stages"].get(name)
        if known and known["inputs"] == key and target.exists() and hash_path(target) == known["output"]:
            self.kept.append(name)
            log.info("%s: kept", name)
            return str(known["output"])
        fields = {field: sha256_json(value) for field, value in inputs.items()}
        log.info("%s: started%s", name, _why(known, key, fields))
        began = time.monotonic()
        self.state["stages"].pop(name, None)
        write_json(self._state_path, self.state)
        _remove(target)
        if target.suffix:
            partial = target.with_name(f".{target.name}.partial")
            _remove(partial)
            target.parent.mkdir(parents=True, exist_ok=True)
            work(partial)
            self._guard()
            partial.replace(target)
        else:
            with staged_directory(target) as staging:
                work(staging)
                self._guard()
        seconds = round(time.monotonic() - began, 2)
        record = {"inputs": key, "fields": fields, "output": hash_path(target), "path": output, "seconds": seconds}
        self.state["stages"][name] = record
        write_json(self._state_path, self.state)
        self.redone.append(name)
        log.info("%s: done in %.1f s", name, seconds)
        return str(record["output"])

    def write(self, name: str, text: str) -> None:
        """Write a small file of the run atomically."""
        write_text(self.root / name, text)


def _why(known: dict[str, Any] | None, key: str, fields: dict[str, str]) -> str:
    """What made an earlier result stale, for the log."""
    if not known:
        return ""
    if known["inputs"] == key:
        return " again: its earlier result is gone or was altered"
    old = known.get("fields", {})
    changed = sorted(name for name in fields.keys() | old.keys() if fields.get(name) != old.get(name))
    return f" again: changed since the last run: {', '.join(changed)}"


def hash_path(path: Path) -> str:
    """SHA-256 of a file, or of a directory's names and contents."""
    return sha256_tree(path) if path.is_dir() else sha256_file(path)


def _remove(path: Path) -> None:
    # Renamed first: a kill while deleting must not leave half a result under a final name.
    if path.exists():
        doomed = path.with_name(f".{path.name}.{os.getpid()}.old")
        path.rename(doomed)
        shutil.rmtree(doomed) if doomed.is_dir() else doomed.unlink()
