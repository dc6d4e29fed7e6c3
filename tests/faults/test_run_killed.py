"""F22 for a whole `prune run`: killed at any write or time and resumed, it leaves what an undisturbed run leaves."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.faults.prepared import in_server, killed_after

STAGES = (
    "analyze", "plan", "cut-3", "screen", "generate", "heal-3", "eval-original", "eval-pruned-3", "eval-healed-3",
    "gate", "draft", "cost", "export", "report",
)  # fmt: skip


@dataclass
class Undisturbed:
    """A finished run, the directory at the begin of every stage, and how often each stage writes."""

    recipe: Path
    snapshots: Path
    writes: dict[str, int]
    outcome: dict[str, Any]
    seconds: float

    def killed_and_resumed(self, stage: str, write: int, root: Path) -> None:
        """Kill the run at one write of a stage, go on, and compare."""
        from tests.faults import tiny_run

        shutil.copytree(self.snapshots / stage, root)
        assert in_server(tiny_run.killed, self.recipe, root, stage, write) == -signal.SIGKILL
        self.resumed(root)

    def resumed(self, root: Path) -> None:
        """Go on to the end, and compare."""
        from tests.faults import tiny_run

        assert in_server(tiny_run.run, self.recipe, root) == 0
        found = tiny_run.outcome(root)
        assert found.keys() == self.outcome.keys()
        assert [name for name in found if found[name] != self.outcome[name]] == []
        shutil.rmtree(root)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    from tests.faults import tiny_run

    directory = tmp_path_factory.mktemp("killed")
    recipe, root, snapshots = tiny_run.make_recipe(directory), directory / "run", directory / "snapshots"
    snapshots.mkdir()
    began = time.monotonic()
    assert in_server(tiny_run.reference, recipe, root, snapshots) == 0
    seconds = time.monotonic() - began
    writes = json.loads((snapshots / "writes.json").read_text(encoding="utf8"))
    return Undisturbed(recipe, snapshots, writes, tiny_run.outcome(root), seconds)


def test_f22_every_stage_of_a_run_is_there_to_be_killed(undisturbed: Undisturbed) -> None:
    assert tuple(undisturbed.writes) == STAGES
    assert min(undisturbed.writes.values()) > 3


@pytest.mark.parametrize("stage", ["heal-3", "export"])
def test_f22_run_killed_within_a_stage_goes_on_to_the_same_result(
    stage: str, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    undisturbed.killed_and_resumed(stage, undisturbed.writes[stage] // 2, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("stage", STAGES)
def test_f22_run_killed_at_twenty_random_writes_of_every_stage(
    stage: str, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    every = range(1, undisturbed.writes[stage] + 1)
    for write in random.Random(stage).sample(every, min(20, len(every))):
        undisturbed.killed_and_resumed(stage, write, tmp_path / f"run{write}")


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_f22_run_killed_at_two_hundred_random_times_goes_on_to_the_same_result(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    """Between writes too: in the middle of a batch, a copy, an import. Several kills hit one run before it is done."""
    from tests.faults import tiny_run

    random_times = random.Random(0)
    hit: Counter[str] = Counter()
    while hit.total() < 200:
        root = tmp_path / f"run{hit.total()}"
        for _ in range(10):
            seconds = random_times.uniform(0, undisturbed.seconds / 4)
            if not killed_after(seconds, tiny_run.run_logged, undisturbed.recipe, root):
                break
            text = (root / "log.txt").read_text(encoding="utf8") if (root / "log.txt").is_file() else ""
            hit[(re.findall(r"INFO ([\w-]+): (?:started|kept|done)", text) or ["start"])[-1]] += 1
        undisturbed.resumed(root)
    print(dict(hit))
    assert len(hit) > len(STAGES) // 2, hit
