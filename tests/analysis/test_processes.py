"""Two gloo processes give, to the bit, what one gives; only the first speaks and writes; one's error ends both."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from prune.analysis import analyze
from prune.analysis.processes import Processes, join
from prune.analysis.result import Analysis
from prune.data.domains import Document, Domain
from prune.errors import PruneError
from tests.conftest import REPOSITORY

CONFIG = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 6,
          "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0}  # fmt: skip


def tiny() -> torch.nn.Module:
    torch.manual_seed(0)
    config = AutoConfig.for_model("granite", **CONFIG, residual_multiplier=0.3)
    return AutoModelForCausalLM.from_config(config).eval()


def domains() -> dict[str, Domain]:
    """Eleven and four documents: with batches of two, the rounds of two processes do not come out even."""
    draw = torch.Generator().manual_seed(1)
    found = {}
    for name, count in (("general", 11), ("math", 4)):
        lengths = torch.randint(2, 20, (count,), generator=draw).tolist()
        documents = [Document(tuple(torch.randint(3, 97, (n,), generator=draw).tolist())) for n in lengths]
        found[name] = Domain(name, tuple(documents), "made here", "none")
    return found


def enter(work: Callable[[int, Path], None], directory: Path, rank: int, count: int, port: int) -> None:
    """Do the work as one of `count` processes, with output and errors in files."""
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in told.items()}}
    torch.set_num_threads(1)
    for name, number in (("out", 1), ("err", 2)):
        os.dup2(os.open(directory / f"{name}.{rank}", os.O_WRONLY | os.O_CREAT), number)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    try:
        work(rank, directory)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def launched(work: Callable[[int, Path], None], directory: Path, count: int = 2) -> list[int]:
    """Exit codes of `count` processes that see what torchrun would tell them.

    Forked from a server that has imported this module and done nothing else: not from here, where other tests may have
    started threads or accelerate's own state.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    started: list[Any] = [
        context.Process(target=enter, args=(work, directory, rank, count, port)) for rank in range(count)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(120)
        if process.is_alive():
            process.kill()
            pytest.fail("a process waits for ever")
    return [process.exitcode for process in started]


def measured(rank: int, directory: Path) -> None:
    processes = join()
    assert (processes.rank, processes.count, processes.device) == (rank, 2, "cpu")
    analysis = analyze(tiny(), domains(), batch_size=2, bootstrap=50, processes=processes)
    processes.leave()
    analysis.save(directory / f"rank{rank}")


def test_two_processes_give_the_bits_of_one(tmp_path: Path) -> None:
    assert launched(measured, tmp_path) == [0, 0]
    alone = analyze(tiny(), domains(), batch_size=2, bootstrap=50)
    assert {"relative_contribution/attn", "lens/kl", "width/stable_rank", "output_effect/dnll"} <= set(
        alone.measurements
    )
    for rank in range(2):
        both = Analysis.load(tmp_path / f"rank{rank}")
        assert set(both.measurements) == set(alone.measurements)
        for key, value in alone.measurements.items():
            np.testing.assert_array_equal(both[key], value, err_msg=key)
        for part in ("scalars", "stability", "phase_changes", "warnings"):
            assert both.info[part] == json.loads(json.dumps(alone.info[part])), part


def failing(rank: int, directory: Path) -> None:
    """Process 1's third round is broken; process 0 must stop in the same round."""
    processes = join()
    rounds = 0

    def work() -> None:
        nonlocal rounds
        rounds += 1
        if rank == 1 and rounds == 3:
            raise PruneError("bad weights")

    try:
        for _ in range(10):
            processes.together(work)
    except PruneError as error:
        (directory / f"said.{rank}").write_text(f"{rounds} {error}")
        sys.exit(1)


def test_an_error_in_one_process_ends_all_in_the_same_round(tmp_path: Path) -> None:
    assert launched(failing, tmp_path) == [1, 1]
    assert (tmp_path / "said.1").read_text() == "3 bad weights"
    assert (tmp_path / "said.0").read_text() == "3 process 1 of 2 failed: PruneError: bad weights"


def test_the_deal_leaves_nothing_out() -> None:
    hands = [list(Processes(rank, 3).deal(range(7))) for rank in range(3)]
    assert [[own for own, _ in hand] for hand in hands] == [[0, 3, 6], [1, 4, None], [2, 5, None]]
    assert [shared for _, shared in hands[1]] == [[0, 1, 2], [3, 4, 5], [6]]


def commanded(rank: int, directory: Path) -> None:
    from prune.cli import main

    data = directory / "text.txt"
    argv = ["prune", "analyze", "embedded", "-o", str(directory / "out"), "--data", f"general={data}"]
    sys.argv = [*argv, "--measure", "contributions,dnll", "--bootstrap", "20", "--batch_size", "1"]
    main()


def test_only_the_first_process_writes_and_speaks(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("one two\n\nthree four five\n\nsix seven\n")
    assert launched(commanded, tmp_path) == [0, 0]
    assert Analysis.load(tmp_path / "out").info["scalars"]["documents"] == 3
    assert f"written: {tmp_path / 'out'}" in (tmp_path / "out.0").read_text()
    assert (tmp_path / "out.1").read_text() == ""
    assert launched(commanded, tmp_path) == [2, 2]  # the directory is taken
    assert "prune:" in (tmp_path / "err.0").read_text()
    assert "prune:" not in (tmp_path / "err.1").read_text()


LAUNCHERS = {
    "torchrun": ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "prune"],
    "accelerate": ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1",
                   "--mixed_precision", "no", "--dynamo_backend", "no", "--module", "prune"],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_real_launchers(launcher: str, tmp_path: Path) -> None:
    data = tmp_path / "text.txt"
    data.write_text("one two\n\nthree four five\n\nsix seven\n")
    asked = ["analyze", "embedded", "-o", str(tmp_path / "out"), "--data", f"general={data}", "--batch_size", "1"]
    command = [sys.executable, *LAUNCHERS[launcher], *asked]
    done = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, timeout=900
    )  # the machine may be busy
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("written:") == 1
    assert Analysis.load(tmp_path / "out").info["scalars"]["documents"] == 3
