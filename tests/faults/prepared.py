"""Tiny runs in children of a server that has imported everything: finished, killed, and ready to be damaged."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LIMIT, A_RUN = 300, 5
"""Seconds after which a run is thought to wait for ever, and what each of many may take more."""
KILLED = (("generate", 0.5), ("heal-3", 0.55), ("heal-3", 0.9), ("eval-original", 0.5), ("eval-healed-3", 0.7))
"""Stages that keep what they have done so far, and the share of their writes after which they are killed."""


def in_server(work: Callable[..., None], *arguments: Any, runs: int = 1) -> int | None:
    """Exit code of `work`, of so many runs, in a process forked from a server that has imported just what they need."""
    child = _started(work, *arguments)
    child.join(LIMIT + A_RUN * runs)
    if child.is_alive():
        child.kill()
        raise TimeoutError("a run waits for ever")
    return int(child.exitcode)


def killed_after(seconds: float, work: Callable[..., None], *arguments: Any) -> bool:
    """Kill `work` so many seconds after it was started; False when it was done before."""
    child = _started(work, *arguments)
    time.sleep(seconds)
    alive = child.is_alive()
    child.kill()
    child.join()
    return bool(alive)


def _started(work: Callable[..., None], *arguments: Any) -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([work.__module__])
    child: Any = context.Process(target=work, args=arguments)
    child.start()
    return child


def prepare(place: Path) -> Path:
    """`place/states`: a finished run, and runs killed in the stages `KILLED`; `expected.json`: what all end in.

    Returns:
        Their recipe.
    """
    from tests.faults import tiny_run

    recipe, root, snapshots = tiny_run.make_recipe(place), place / "reference", place / "snapshots"
    snapshots.mkdir()
    assert in_server(tiny_run.reference, recipe, root, snapshots) == 0
    (place / "expected.json").write_text(json.dumps(tiny_run.outcome(root)), encoding="utf8")
    writes = json.loads((snapshots / "writes.json").read_text(encoding="utf8"))
    shutil.copytree(root, place / "states" / "finished")
    for stage, share in KILLED:
        state = place / "states" / f"{stage}-{share}"
        shutil.copytree(snapshots / stage, state)
        assert in_server(tiny_run.killed, recipe, state, stage, int(writes[stage] * share)) == -9
    return recipe
