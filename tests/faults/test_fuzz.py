"""The short version of the scripts that fuzz: nothing but our error, in time, nothing read or written outside."""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import REPOSITORY


def test_mutated_checkpoints_raise_only_our_error_and_touch_nothing_outside() -> None:
    script = REPOSITORY / "scripts/fuzz_headers.py"
    # In its own process: an audit hook cannot be removed again.
    done = subprocess.run(
        [sys.executable, str(script), "--inputs", "600", "--seed", "7"], capture_output=True, text=True, cwd=REPOSITORY,
        env={"PYTHONPATH": str(REPOSITORY), "PATH": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-500:]
    counts = dict(line.strip().split(": ") for line in done.stdout.splitlines()[1:])
    assert all(int(counts[kind]) > 0 for kind in ("cut accepted", "cut refused", "header accepted", "header refused"))


def test_broken_configs_indexes_and_adapters_give_only_our_errors_in_time() -> None:
    script = REPOSITORY / "scripts/fuzz_inputs.py"
    done = subprocess.run(  # in its own process, whose memory it limits
        [sys.executable, str(script), "--cases", "250", "--seed", "7", "--load_every", "10"],
        capture_output=True, text=True, cwd=REPOSITORY,
        env={"PYTHONPATH": str(REPOSITORY), "PATH": "", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-500:]
    assert "0 kinds of errors that no user should see" in done.stdout
    for kind in (
        "cut, adapter: accepted",
        "cut, adapter: refused",
        "cut, index: refused",
        "cut, llama config: refused",
    ):
        assert kind in done.stdout


def test_the_watch_sees_an_open_outside(tmp_path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; from fuzz_headers import Watch\n"
        "w = Watch(Path(sys.argv[2])); w.active = True; open('/dev/null').close(); print(w.outside)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(REPOSITORY / "scripts"), str(tmp_path)], capture_output=True, text=True,
        env={"PYTHONPATH": str(REPOSITORY), "PATH": ""},
    )  # fmt: skip
    assert "open /dev/null" in done.stdout, done.stderr
