"""Places that lack what most have: locks, a home, an entry in the password database."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from prune.errors import PruneError
from prune.files import warn_of_no_locks
from prune.planning.score_cache import ScoreCache
from prune.runs.directory import RunDirectory
from prune.surgery.cut import cut
from tests.faults.checkpoints import four_layers

NO_LOCKS = ["ENOSYS", "ENOLCK", "EOPNOTSUPP", "EBADF"]
"""Lustre without locks, NFS without its lock service, FUSE, and NFS asked to lock a directory that is open to read."""


def failing(number: int) -> Callable[..., None]:
    def lock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return lock


@pytest.fixture(autouse=True)
def first_warning() -> None:
    warn_of_no_locks.cache_clear()


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING and "no locks" in r.getMessage()]


@pytest.mark.parametrize("name", NO_LOCKS)
def test_f44_a_cut_goes_on_without_locks(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fcntl, "flock", failing(getattr(errno, name)))
    source = four_layers(tmp_path / "source")
    (tmp_path / ".out.partial").mkdir()  # left by a killed run
    cut(str(source), tmp_path / "out", drop_layers=[1], verify=False)
    cut(str(source), tmp_path / "again", drop_layers=[1], verify=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "out", "source"]
    assert len(warnings_in(caplog)) == 1


@pytest.mark.parametrize("name", NO_LOCKS)
def test_f44_a_run_goes_on_without_locks(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fcntl, "flock", failing(getattr(errno, name)))
    with RunDirectory(tmp_path / "run", resume=False) as run:
        run.stage("one", "one.txt", {}, lambda path: path.write_text("1") and None)
        run.stage("two", "two", {}, lambda path: (path / "x").write_text("2") and None)
    assert (tmp_path / "run" / "two" / "x").read_text() == "2"
    assert not list((tmp_path / "run").rglob("*.partial"))
    assert len(warnings_in(caplog)) == 1


@pytest.mark.parametrize("name", ["ENOLCK", "ENOSYS"])
def test_f44_scores_are_kept_without_locks(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fcntl, "lockf", failing(getattr(errno, name)))
    path = tmp_path / "with space?" / "scores.sqlite"
    cache = ScoreCache(path, "model")
    cache.put("nll", (0, 1), ["document"], [2.5])
    cache.commit()
    cache.close()
    again = ScoreCache(path, "model")
    assert dict(again.get("nll", (0, 1))) == {"document": 2.5}
    again.close()
    assert len(warnings_in(caplog)) == 1


def test_f44_a_lock_that_is_held_is_still_respected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", failing(errno.EAGAIN))
    with pytest.raises(PruneError, match="another process is writing it"):
        cut(str(four_layers(tmp_path / "source")), tmp_path / "out", drop_layers=[1], verify=False)
    with pytest.raises(PruneError, match="another run is working"):
        RunDirectory(tmp_path / "run", resume=False)


def test_f44_another_failure_of_a_lock_is_named_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", failing(errno.EIO))
    source = four_layers(tmp_path / "source")
    with pytest.raises(PruneError, match="cannot be written: Input/output error"):
        cut(str(source), tmp_path / "out", drop_layers=[1], verify=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


HOMES = {
    "no HOME": {},
    "an XDG cache that is a file": {"HOME": "/nonexistent/home", "XDG_CACHE_HOME": "/dev/null"},
    "a HOME that is not there": {"HOME": "/nonexistent/home"},
    "a HOME that is a file": {"HOME": "/dev/null"},
    "a relative HOME": {"HOME": "home"},
}
LIBRARIES = """
import pwd
def unknown(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")
pwd.getpwuid = unknown
import prune, json, sys
from evals.homes import cache_directory
import getpass, pathlib
import matplotlib, huggingface_hub.constants as hub
from torch._inductor.runtime.cache_dir_utils import default_cache_dir
import datasets
found = [cache_directory("x"), matplotlib.get_cachedir(), hub.HF_HOME, default_cache_dir()]
found.append(datasets.config.HF_CACHE_HOME)
assert getpass.getuser()
assert pathlib.Path.home().is_dir()
print(json.dumps([str(path) for path in found]))
"""


@pytest.mark.parametrize(
    "variables",
    [pytest.param(HOMES[name], id=name, marks=[] if i < 1 else pytest.mark.slow) for i, name in enumerate(HOMES)],
)
def test_f45_no_home_and_no_user_end_in_no_traceback(variables: dict[str, str], tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    environment = {
        **kept,
        "PYTHONPATH": str(root),
        "TMPDIR": str(tmp_path),
        "PYTHONDONTWRITEBYTECODE": "1",
        **variables,
    }
    done = subprocess.run(
        [sys.executable, "-c", LIBRARIES], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    for path in json.loads(done.stdout.splitlines()[-1]):
        assert Path(path).is_relative_to(tmp_path), path
    assert not (tmp_path / "~").exists()


def test_f45_a_usable_home_is_left_alone(tmp_path: Path) -> None:
    code = "import os; before = dict(os.environ); import prune; assert before == dict(os.environ)"
    environment = {**os.environ, "HOME": str(tmp_path), "USER": "somebody"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
