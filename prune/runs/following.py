"""A run in several processes: the first owns the directory and says what is done, the others work along with it.

Started by `torchrun` or `accelerate launch`, every process goes through the same stages in the same order. The first
decides which are done again; at a stage that is shared all of them work, at any other one only the first, while the
rest wait. What a process beside the first would write goes to a folder that is thrown away. Assumption: all see one
file system, so that what the first wrote is there for the others.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prune.analysis.processes import ALONE, Processes
from prune.errors import OfOneProcess, PruneError
from prune.files import sha256_json
from prune.runs.directory import RunDirectory, Work, field_hashes

FILES_COME_WITHIN = 60.0
"""Seconds that a network file system may take to show one machine what another wrote."""


class LeadingDirectory(RunDirectory):
    """The run directory of the first process: what it decides and what came of it is told to the others.

    Attributes:
        processes: all of them.
    """

    processes: Processes = ALONE

    def stage(self, name: str, output: str, inputs: dict[str, Any], work: Work, *, shared: bool = False) -> str:
        """`RunDirectory.stage`, followed by the others; what fails in a stage that is not shared fails in all."""
        said = {"stage": name, "fields": field_hashes(inputs)}

        def told(path: Path) -> Mapping[str, str] | None:
            self.processes.from_first({**said, "work": True})
            return work(path)

        begun = len(self.redone)
        try:
            digest = super().stage(name, output, inputs, told)
        except PruneError as error:
            if not shared:
                self.processes.from_first({"failed": str(error)})
            raise
        except RuntimeError as error:
            raise _lost(error) from error
        if len(self.redone) == begun:
            self.processes.from_first({**said, "work": False})
        self.processes.from_first({"output": digest})
        return digest


class FollowingDirectory:
    """The run directory as another process than the first sees it: read, never written.

    Attributes:
        root: the directory.
        redone, kept: empty; the first has the account.
    """

    def __init__(self, root: Path, processes: Processes) -> None:
        self.root, self.processes = root, processes
        self.redone: list[str] = []
        self.kept: list[str] = []

    def __enter__(self) -> FollowingDirectory:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def stage(self, name: str, output: str, inputs: dict[str, Any], work: Work, *, shared: bool = False) -> str:
        """Work along where the stage is shared, else wait; the hash of what the first wrote.

        Raises:
            PruneError: the first failed or ended, what it reads is not what this process reads, or what it wrote is
                nowhere to be seen.
        """
        try:
            said = self._hear()
            self._check(name, field_hashes(inputs), said)
            if said["work"] and shared:
                with tempfile.TemporaryDirectory(prefix="prune-run-") as folder:
                    path = Path(folder) / Path(output).name
                    if not path.suffix:
                        path.mkdir()
                    work(path)
            digest = str(self._hear()["output"])
        except RuntimeError as error:
            raise _lost(error) from error
        self._wait_for(self.root / output)
        return digest

    def _wait_for(self, path: Path) -> None:
        until = time.monotonic() + FILES_COME_WITHIN
        while not path.exists():
            if time.monotonic() > until:
                raise OfOneProcess(
                    f"process {self.processes.rank}: {path}, which the first process wrote, is not there: give -o a "
                    "directory on a file system that all machines share"
                )
            time.sleep(0.1)

    def _hear(self) -> dict[str, Any]:
        said: dict[str, Any] = self.processes.from_first({})
        if "failed" in said:
            raise PruneError(f"the first process stopped: {said['failed']}")
        return said

    def _check(self, name: str, fields: Mapping[str, str], said: Mapping[str, Any]) -> None:
        theirs = said["fields"] if said["stage"] == name else {"stage": sha256_json(said["stage"])}
        other = sorted(field for field in fields.keys() | theirs.keys() if fields.get(field) != theirs.get(field))
        if other:
            raise OfOneProcess(
                f"process {self.processes.rank}, stage {name}: {', '.join(other)} is not what the first process sees: "
                "give every process the same recipe, files and versions"
            )


Directory = RunDirectory | FollowingDirectory
"""What stages are given."""


def _lost(error: RuntimeError) -> Exception:
    """What a closed connection amounts to; anything else stays as it is."""
    if isinstance(error, PruneError) or not any(word in str(error) for word in ("gloo", "Connection", "NCCL")):
        return error
    return PruneError("another process of this run ended; see what it said, and start all of them again with --resume")
