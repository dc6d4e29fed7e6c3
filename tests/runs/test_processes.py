"""`torchrun -m prune run`: two processes give what one gives, a killed one stops both, and the run goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from prune.analysis.processes import Processes
from prune.analysis.result import Analysis
from prune.errors import OfOneProcess, PruneError, UsageError
from prune.healing.settings import HealSettings
from prune.packaging.saving import HEALING
from prune.runs.following import FollowingDirectory
from prune.runs.stages.heal import shared_out
from tests.conftest import REPOSITORY
from tests.runs.small import small_recipe

STOPS_WITHIN = 60.0  # seconds, on a machine that other tests keep busy; alone it takes two or three


class Told(Processes):
    """A process beside the first, which hears what it is given."""

    def __new__(cls, *_: object) -> Told:
        return object.__new__(cls)

    def __init__(self, *said: dict[str, Any]) -> None:
        super().__init__(1, 2)
        object.__setattr__(self, "said", list(said))

    def from_first(self, value: Any) -> Any:
        return self.said.pop(0)  # type: ignore[attr-defined]


def test_a_stage_that_is_not_shared_is_waited_for(tmp_path: Path) -> None:
    from prune.runs.directory import field_hashes

    inputs = {"model": "a"}
    began = {"stage": "cut", "fields": field_hashes(inputs), "work": True}
    follower = FollowingDirectory(tmp_path, Told(began, {"output": "hash"}))

    def never(path: Path) -> None:
        raise AssertionError(path)

    (tmp_path / "pruned/3").mkdir(parents=True)
    assert follower.stage("cut", "pruned/3", inputs, never) == "hash"
    assert not list((tmp_path / "pruned/3").iterdir())


def test_a_process_that_does_not_see_the_directory_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prune.runs import following
    from prune.runs.directory import field_hashes

    monkeypatch.setattr(following, "FILES_COME_WITHIN", 0.0)
    told = Told({"stage": "cut", "fields": field_hashes({}), "work": False}, {"output": "hash"})
    with pytest.raises(OfOneProcess, match=r"process 1: .*3, which .* is not there: .* all machines share"):
        FollowingDirectory(tmp_path, told).stage("cut", "pruned/3", {}, lambda _: None)


def test_what_a_process_beside_the_first_writes_is_thrown_away(tmp_path: Path) -> None:
    from prune.runs.directory import field_hashes

    seen: list[Path] = []
    began = {"stage": "heal", "fields": field_hashes({}), "work": True}
    follower = FollowingDirectory(tmp_path, Told(began, {"output": "hash"}))

    def work(path: Path) -> None:
        (path / "model").write_text("weights")
        seen.append(path)

    (tmp_path / "healed/3").mkdir(parents=True)
    assert follower.stage("heal", "healed/3", {}, work, shared=True) == "hash"
    assert not seen[0].exists()
    assert not list((tmp_path / "healed/3").iterdir())


def test_other_files_than_the_first_process_sees_are_named(tmp_path: Path) -> None:
    from prune.runs.directory import field_hashes

    began = {"stage": "analyze", "fields": field_hashes({"data": 1, "model": "a"}), "work": True}
    with pytest.raises(OfOneProcess, match="process 1, stage analyze: model is not what the first process sees"):
        FollowingDirectory(tmp_path, Told(began)).stage(
            "analyze", "analysis", {"data": 1, "model": "b"}, lambda _: None
        )


def test_what_fails_in_the_first_fails_in_all(tmp_path: Path) -> None:
    with pytest.raises(PruneError, match="the first process stopped: the disk is full"):
        FollowingDirectory(tmp_path, Told({"failed": "the disk is full"})).stage("cut", "pruned/3", {}, lambda _: None)


def test_the_rows_of_a_step_are_shared_out() -> None:
    settings = HealSettings(per_device_train_batch_size=6, gradient_accumulation_steps=4)
    assert shared_out(settings, 1) == settings
    assert shared_out(settings, 3).per_device_train_batch_size == 2
    by_turns = shared_out(settings, 4)
    assert (by_turns.per_device_train_batch_size, by_turns.gradient_accumulation_steps) == (6, 1)
    with pytest.raises(UsageError, match="6 rows in 4 turns cannot be shared by 5 processes; give a multiple of 5"):
        shared_out(settings, 5)


def started(recipe: Path, output: Path, count: int, *flags: str) -> subprocess.Popen[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launcher = [f"--nproc_per_node={count}", f"--master_port={port}"] if count > 1 else None
    return launched(launcher, recipe, output, *flags)


def launched(
    launcher: list[str] | None, recipe: Path, output: Path, *flags: str, before: Sequence[str] = (), **environment: str
) -> subprocess.Popen[str]:
    under = [] if launcher is None else ["-m", "torch.distributed.run", *launcher]
    command = [*before, sys.executable, *under, "-m", "prune", "run", str(recipe), "-o", str(output), *flags]
    known = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)} | environment
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=known)


def of_rank(rank: int, launcher: int) -> int:
    """The process of this rank that the launcher started."""
    for folder in Path("/proc").iterdir():
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == launcher and f"\0RANK={rank}\0" in (folder / "environ").read_text():
                return int(folder.name)
        except (OSError, ValueError, IndexError):
            continue
    raise AssertionError(f"no process of rank {rank}")


def stages(run: Path) -> list[str]:
    state = run / "state.json"
    return list(json.loads(state.read_text())["stages"]) if state.is_file() else []


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The recipe, and what one process makes of it."""
    place = tmp_path_factory.mktemp("alone")
    recipe = small_recipe(place)
    process = started(recipe, place / "one", 1)
    said = process.communicate(timeout=1200)[1]
    assert process.returncode in (0, 3), said
    return recipe, place / "one"


@pytest.mark.slow
def test_four_processes_give_what_one_gives(alone: tuple[Path, Path], tmp_path: Path) -> None:
    recipe, one = alone
    together = started(recipe, tmp_path / "four", 4)
    said = together.communicate(timeout=1800)[1]
    assert (tmp_path / "four/report.html").is_file(), said
    compare(one, tmp_path / "four")


@pytest.fixture
def hosts() -> Iterator[dict[str, tuple[str, str]]]:
    """Two network namespaces and a wire between them, as near as one machine comes to two: name -> address, device."""
    if shutil.which("ip") is None:
        pytest.skip("needs `ip` of iproute2")
    names = {f"prune{os.getpid()}{end}": (f"10.77.0.{i}", f"v{end}{os.getpid()}") for i, end in enumerate("ab", 1)}
    (a, (_, wire)), (b, (_, other)) = names.items()
    made = subprocess.run(["ip", "netns", "add", a], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"network namespaces cannot be made here: {made.stderr.strip()}")
    try:
        for command in (
            f"netns add {b}",
            f"link add {wire} netns {a} type veth peer name {other} netns {b}",
            *(f"-n {name} addr add {address}/24 dev {device}" for name, (address, device) in names.items()),
            *(f"-n {name} link set {device} up" for name, (_, own) in names.items() for device in ("lo", own)),
        ):
            subprocess.run(["ip", *command.split()], check=True, capture_output=True)
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


@pytest.mark.slow
def test_two_hosts_give_what_one_process_gives(
    alone: tuple[Path, Path], hosts: dict[str, tuple[str, str]], tmp_path: Path
) -> None:
    recipe, one = alone
    first = next(iter(hosts.values()))[0]
    processes = [
        launched(
            [
                "--nnodes=2",
                "--nproc_per_node=1",
                f"--node_rank={rank}",
                f"--master_addr={first}",
                "--master_port=29500",
            ],
            recipe,
            tmp_path / "two",
            before=["ip", "netns", "exec", name],
            GLOO_SOCKET_IFNAME=device,
        )
        for rank, (name, (_, device)) in enumerate(hosts.items())
    ]
    said = [process.communicate(timeout=1800)[1] for process in processes]
    assert (tmp_path / "two/report.html").is_file(), said
    compare(one, tmp_path / "two")


@pytest.mark.slow
def test_two_processes_of_which_one_is_killed_give_what_one_gives(alone: tuple[Path, Path], tmp_path: Path) -> None:
    recipe, one = alone
    broken = started(recipe, tmp_path / "two", 2)
    deadline = time.monotonic() + 600
    while "analyze" not in stages(tmp_path / "two"):
        assert broken.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.2)
    os.kill(of_rank(1, broken.pid), signal.SIGKILL)
    began = time.monotonic()
    broken.communicate(timeout=STOPS_WITHIN)
    assert broken.returncode not in (0, 3)
    assert time.monotonic() - began < STOPS_WITHIN
    resumed = started(recipe, tmp_path / "two", 2, "--resume")
    said = resumed.communicate(timeout=1200)[1]
    assert (tmp_path / "two/report.html").is_file(), said
    compare(one, tmp_path / "two")


def compare(one: Path, two: Path) -> None:
    """What one process left and what several left: equal to rounding."""
    assert stages(one) == stages(two)
    expected, found = Analysis.load(one / "analysis"), Analysis.load(two / "analysis")
    assert found.measurements.keys() == expected.measurements.keys()
    for key, value in expected.measurements.items():
        np.testing.assert_allclose(found[key], value, atol=1e-6, rtol=1e-6, err_msg=key)
    for name in sorted(path.name for path in (one / "plans").glob("*.json")):
        first, second = (json.loads((run / "plans" / name).read_text()) for run in (one, two))
        assert first["keep"] == second["keep"]
        assert first["scores"]["dnll"]["total"]["value"] == pytest.approx(second["scores"]["dnll"]["total"]["value"])
        assert first["evaluations"] == second["evaluations"]
    for checkpoint in sorted((one / "healed").iterdir()):
        ours, theirs, before = (
            load_file(run / stage / checkpoint.name / "model.safetensors")
            for run, stage in ((one, "healed"), (two, "healed"), (one, "pruned"))
        )
        # Adam turns rounding of small gradients into steps: what training moved is compared, not every number.
        apart = sum(float((ours[name].double() - theirs[name].double()).square().sum()) for name in ours)
        moved = sum(float((ours[name].double() - before[name].double()).square().sum()) for name in ours)
        assert moved > 0
        assert apart < 1e-4 * moved  # 1 % of its length
        records = [run / "healed" / checkpoint.name / HEALING for run in (one, two)]
        first, second = (json.loads(path.read_text()) for path in records)
        for key in ("held_out_before", "held_out_adapted", "held_out_after"):
            assert first[key] == pytest.approx(second[key], abs=1e-4), key
        assert first["tokens_seen"] == second["tokens_seen"]
        for step, same in zip(first["history"], second["history"], strict=True):
            for key in ("loss", "next_token_loss", "distill_loss"):
                assert (key in step) == (key in same), (step["step"], key)
                if key in step:  # an evaluation logs none of them
                    assert step[key] == pytest.approx(same[key], rel=1e-3), (step["step"], key)
    for evidence in sorted((one / "evidence" / "gate").iterdir()):
        first, second = (
            json.loads((run / "evidence" / "gate" / evidence.name / "evidence.json").read_text()) for run in (one, two)
        )
        for suite, other in zip(first["suites"], second["suites"], strict=True):
            assert [(t["task"], t["n"]) for t in suite["tasks"]] == [(t["task"], t["n"]) for t in other["tasks"]]
            if "pruned" in evidence.name:
                assert suite["retention"] == pytest.approx(other["retention"])
