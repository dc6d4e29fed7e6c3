"""Stages: skipped only when nothing changed, redone when anything did, never half-written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from prune.errors import PruneError, UsageError
from prune.runs.directory import RunDirectory


def work_of(text, log):
    def work(path):
        log.append(text)
        (path / "a.txt").write_text(text)

    return work


def test_a_stage_is_kept_until_its_inputs_or_its_output_change(tmp_path):
    log: list[str] = []

    def once(value, expected):
        with RunDirectory(tmp_path / "run", resume=True) as run:
            run.stage("one", "one", {"value": value}, work_of(str(value), log))
            assert (run.redone, run.kept) == ((["one"], []) if expected else ([], ["one"]))

    once(1, True)
    once(1, False)
    once(2, True)
    (tmp_path / "run/one/a.txt").write_text("altered by hand")
    once(2, True)
    (tmp_path / "run/one/a.txt").unlink()
    once(2, True)
    assert log == ["1", "2", "2", "2"]


def test_a_failed_stage_leaves_nothing_under_its_name(tmp_path):
    def work(path):
        (path / "half.txt").write_text("half")
        raise RuntimeError("stop")

    with RunDirectory(tmp_path / "run", resume=False) as run, pytest.raises(RuntimeError):
        run.stage("one", "one", {}, work)
    assert not (tmp_path / "run/one").exists()
    assert json.loads((tmp_path / "run/state.json").read_text())["stages"] == {}


def test_a_used_directory_needs_resume_and_a_foreign_one_is_refused(tmp_path):
    RunDirectory(tmp_path / "run", resume=False).close()
    with pytest.raises(UsageError, match="resume"):
        RunDirectory(tmp_path / "run", resume=False)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="holds no run"):
        RunDirectory(tmp_path / "other", resume=True)
    assert (tmp_path / "other/thesis.txt").read_text() == "years of work"


def test_what_a_killed_run_left_half_written_is_removed_by_the_next_one(tmp_path):
    RunDirectory(tmp_path / "run", resume=False).close()
    (tmp_path / "run/evidence/.old.12.old").mkdir(parents=True)
    (tmp_path / "run/evidence/.task.jsonl.12.partial").write_text("half")
    (tmp_path / "run/evidence/mine.partial").write_text("not hidden, not ours")
    RunDirectory(tmp_path / "run", resume=True).close()
    assert [p.name for p in (tmp_path / "run/evidence").iterdir()] == ["mine.partial"]


def test_f26_two_runs_in_one_directory_are_refused(tmp_path):
    with RunDirectory(tmp_path / "run", resume=False), pytest.raises(PruneError, match="another run"):
        RunDirectory(tmp_path / "run", resume=True)


SLEEPER = """
import sys, time
from pathlib import Path
from prune.runs.directory import RunDirectory
with RunDirectory(Path(sys.argv[1]), resume=True) as run:
    run.stage("first", "first", {}, lambda p: (p / "x").write_text("first") and None)
    print("first done", flush=True)
    def slow(path):
        (path / "x").write_text("second")
        print("second begun", flush=True)
        time.sleep(float(sys.argv[2]))
    run.stage("second", "second", {}, slow)
    print("kept", run.kept, flush=True)
"""


def test_f22_sigkill_costs_at_most_the_stage_that_was_running(tmp_path):
    root = tmp_path / "run"
    child = subprocess.Popen([sys.executable, "-c", SLEEPER, str(root), "60"], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "first done\n"
    assert child.stdout.readline() == "second begun\n"
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert (root / "first/x").read_text() == "first"
    assert not (root / "second").exists()
    began = time.monotonic()
    again = subprocess.run([sys.executable, "-c", SLEEPER, str(root), "0"], capture_output=True, text=True, check=True)
    assert "kept ['first']" in again.stdout
    assert (root / "second/x").read_text() == "second"
    assert time.monotonic() - began < 30
