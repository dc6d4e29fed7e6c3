"""Faults while the program runs: killed, interrupted, out of disk or memory, offline, on an odd machine."""

from __future__ import annotations

import errno
import json
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from prune.errors import PruneError, UsageError
from prune.files import refuse_non_empty, sha256_tree, staged_directory
from prune.runs.directory import RunDirectory
from prune.surgery.cut import cut
from tests.faults.checkpoints import at_write, four_layers, in_fork

LINE = "import sys; from prune.cli import main; "


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return four_layers(tmp_path / "source")


def cut_to(source: Path, output: Path) -> str:
    """Cut one layer in several shards, and hash the result."""
    cut(str(source), output, drop_layers=[1], max_shard_size="8B", verify=False)
    return sha256_tree(output)


def count_writes(source: Path) -> int:
    with at_write(-1, lambda: None) as count:
        cut_to(source, source.parent / "counted")
    return count[0]


def test_f22_cut_killed_at_twenty_random_writes_is_absent_or_complete(source: Path) -> None:
    before, whole, writes = sha256_tree(source), cut_to(source, source.parent / "whole"), count_writes(source)
    points = random.Random(0).sample(range(1, writes + 1), min(20, writes))
    for point in points:
        target = source.parent / f"out{point}"

        def killed(point: int = point, target: Path = target) -> None:
            with at_write(point, lambda: os.kill(os.getpid(), signal.SIGKILL)):
                cut_to(source, target)

        assert in_fork(killed) == signal.SIGKILL
        if target.exists():
            assert sha256_tree(target) == whole
        else:
            assert cut_to(source, target) == whole
    assert sha256_tree(source) == before
    assert len(points) == 20


def test_f22_stage_killed_at_any_write_is_done_again_with_the_same_bytes(tmp_path: Path) -> None:
    def run(root: Path) -> str:
        with RunDirectory(root, resume=True) as stages:
            stages.stage("one", "one", {"a": 1}, lambda p: (p / "x").write_text("first") and None)
            stages.stage("two", "two.json", {"b": 2}, lambda p: p.write_text("second") and None)
        return sha256_tree(root / "one") + (root / "two.json").read_text()

    with at_write(-1, lambda: None) as count:
        whole = run(tmp_path / "whole")
    for point in random.Random(1).sample(range(1, count[0] + 1), min(20, count[0])):

        def killed(point: int = point) -> None:
            with at_write(point, lambda: os.kill(os.getpid(), signal.SIGKILL)):
                run(tmp_path / f"run{point}")

        assert in_fork(killed) == signal.SIGKILL
        assert run(tmp_path / f"run{point}") == whole


SLOW_COPY = (
    LINE + "import time, prune.surgery.writer as w; copy = w.copy_range\n"
    "def slow(*args):\n    print('copying', flush=True); time.sleep(60); copy(*args)\n"
    "w.copy_range = slow; main()"
)


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_f23_interrupted_cut_exits_130_and_leaves_nothing(source: Path, kind: signal.Signals) -> None:
    arguments = ["cut", str(source), "-o", str(source.parent / "out"), "--drop_layers", "1", "--no_verify"]
    child = subprocess.Popen(
        [sys.executable, "-c", SLOW_COPY, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore Ctrl-C
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "copying\n"
    child.send_signal(kind)
    _, message = child.communicate(timeout=60)
    assert child.returncode == 130
    assert message.startswith("prune: interrupted")
    assert sorted(p.name for p in source.parent.iterdir()) == ["source"]


def test_f23_interrupted_stage_is_the_only_work_lost(tmp_path: Path) -> None:
    def interrupted(path: Path) -> None:
        (path / "half").write_text("half")
        raise KeyboardInterrupt

    with RunDirectory(tmp_path / "run", resume=True) as run:
        run.stage("one", "one", {}, lambda p: (p / "x").write_text("first") and None)
        with pytest.raises(KeyboardInterrupt):
            run.stage("two", "two", {}, interrupted)
    with RunDirectory(tmp_path / "run", resume=True) as run:
        run.stage("one", "one", {}, lambda p: (p / "x").write_text("again") and None)
        run.stage("two", "two", {}, lambda p: (p / "x").write_text("second") and None)
        assert (run.kept, run.redone) == (["one"], ["two"])
    assert not (tmp_path / "run/two/half").exists()


def raise_full() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_f24_disk_full_at_ten_writes(source: Path) -> None:
    before, whole, writes = sha256_tree(source), cut_to(source, source.parent / "whole"), count_writes(source)
    points = [*random.Random(2).sample(range(1, writes), 9), writes]
    for point in points:
        target = source.parent / f"out{point}"
        with at_write(point, raise_full), pytest.raises(PruneError, match=r"disk is full|No space left"):
            cut_to(source, target)
        # The last write syncs the directory after the rename: what stands there then is complete.
        assert not target.exists() or (point == writes and sha256_tree(target) == whole)
        assert not list(source.parent.glob(".*.partial"))
    assert sha256_tree(source) == before


def command(*arguments: str, code: str = LINE + "main()", **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, **options)


def test_f24_disk_full_elsewhere_is_one_line_and_exit_1() -> None:
    code = (
        "import prune.api._verify as v, errno\n"
        "def full(*a, **k): raise OSError(errno.ENOSPC, 'No space left on device', '/data/run')\n"
        "v.verify = full\n" + LINE + "main()"
    )
    done = command("verify", "x", code=code)
    assert done.returncode == 1
    assert done.stderr == "prune: /data/run: No space left on device; free space there, or choose another -o\n"


@pytest.mark.parametrize("names", [(), ("source", None, "copy")], ids=["a write", "a copy"])
def test_f24_a_full_disk_names_what_was_to_be_written_and_not_what_was_read(
    names: tuple[Any, ...], tmp_path: Path
) -> None:
    """Of a copy that fails, Python names the source first; of a write, nothing."""
    with pytest.raises(OSError, match="No space left") as caught, staged_directory(tmp_path / "export"):
        raise OSError(errno.ENOSPC, "No space left on device", *names)
    assert (caught.value.filename, caught.value.filename2) == (str(tmp_path / "export"), None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a directory that not even root may write to")
def test_f25_read_only_target(source: Path) -> None:
    before = sha256_tree(source)
    with pytest.raises(PruneError, match="cannot be written"):
        cut(str(source), "/proc/out", drop_layers=[1], verify=False)
    assert sha256_tree(source) == before


def test_f25_a_target_that_cannot_become_a_directory_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    (tmp_path / "nowhere").symlink_to(tmp_path / "none")
    monkeypatch.chdir(tmp_path / "empty")
    for target, message in (
        (tmp_path / "file/out", "file is a file"),
        (tmp_path / "file/deeper/out", "file is a file"),
        (tmp_path / "link", "is a symbolic link"),
        (tmp_path / "nowhere", "is a symbolic link"),
        (Path(), "while it is in use: give output a new directory in it"),
        (Path("/"), "while it is in use"),  # a mount point
        (tmp_path / ("x" * 247), "a name of more than 246 bytes"),
    ):
        with pytest.raises(UsageError, match=message):
            refuse_non_empty(target)
    refuse_non_empty(tmp_path / "empty/new")
    refuse_non_empty(tmp_path / ("x" * 246))
    with staged_directory(tmp_path / ("x" * 246)):
        pass


def test_f26_two_cuts_into_one_target(source: Path) -> None:
    target, inside, go_on = source.parent / "out", threading.Event(), threading.Event()

    def hold() -> None:
        with staged_directory(target) as staging:
            (staging / "mine").write_text("first")
            inside.set()
            go_on.wait(30)

    first = threading.Thread(target=hold)
    first.start()
    inside.wait(30)
    try:
        with pytest.raises(PruneError, match="another process is writing it"):
            cut_to(source, target)
    finally:
        go_on.set()
        first.join()
    assert [p.name for p in target.iterdir()] == ["mine"]


def test_f29_out_of_memory_halves_the_batch_and_says_so() -> None:
    torch = pytest.importorskip("torch")
    from prune.analysis.batch_size import BatchSize

    errors = {
        8: torch.OutOfMemoryError("CUDA out of memory"),
        4: RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory"),
    }
    tried: list[int] = []

    def work(size: int) -> None:
        tried.append(size)
        if size in errors:
            raise errors[size]

    sizes = BatchSize(8)
    sizes.until_it_fits(work, "stories")
    sizes.until_it_fits(work, "math")
    assert (tried, sizes.value) == ([8, 4, 2, 2], 2)
    with pytest.raises(PruneError, match="stories: out of memory with one document"):
        BatchSize(1).until_it_fits(lambda size: (_ for _ in ()).throw(MemoryError()), "stories")
    with pytest.raises(RuntimeError, match="shapes"):
        BatchSize(2).until_it_fits(lambda size: (_ for _ in ()).throw(RuntimeError("shapes differ")), "stories")


def test_f30_resume_names_what_changed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def run(**inputs: Any) -> list[str]:
        caplog.clear()
        with caplog.at_level(logging.INFO, "prune"), RunDirectory(tmp_path / "run", resume=True) as stages:
            stages.stage("cut-14", "cut", inputs, lambda p: (p / "x").write_text("x") and None)
        return [record.getMessage() for record in caplog.records]

    run(model="m1", data={"a": "1"}, options={"seed": 0})
    assert run(model="m1", data={"a": "1"}, options={"seed": 0}) == ["cut-14: kept"]
    assert "changed since the last run: data, model" in run(model="m2", data={"a": "2"}, options={"seed": 0})[0]
    assert "changed since the last run: options" in run(model="m2", data={"a": "2"}, options={"seed": 1})[0]


def test_f30_a_changed_recipe_names_the_field_and_both_values() -> None:
    from prune.runs.pipeline import changed_fields

    old, new = "plan:\n  criterion: dnll\nseed: 0\n", "plan:\n  criterion: kl\nseed: 0\n"
    assert list(changed_fields(old, new)) == ["plan.criterion: dnll -> kl"]


def test_f32_locale_umask_time_zone_and_clock_change_no_byte(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (source / "config.json").write_text(
        json.dumps({**json.loads((source / "config.json").read_text()), "note": "日本語"}, ensure_ascii=False), "utf8"
    )
    whole = cut_to(source, source.parent / "whole")
    for number, (locale, umask) in enumerate([("C", 0o077), ("tr_TR.UTF-8", 0o000)]):
        target = source.parent / f"out{number}"
        environment = {
            **os.environ,
            "LC_ALL": locale,
            "PYTHONUTF8": "0",
            "PYTHONCOERCECLOCALE": "0",
            "TZ": "Asia/Tokyo",
        }
        arguments = ["cut", str(source), "-o", str(target), "--drop_layers", "1", "--no_verify"]
        done = command(*arguments, "--max_shard_size", "8B", env=environment, umask=umask)
        assert done.returncode == 0, done.stderr
        assert sha256_tree(target) == whole
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert cut_to(source, source.parent / "epoch") == whole


def test_f33_offline_makes_no_network_call(source: Path, monkeypatch: pytest.MonkeyPatch, demo_model: Path) -> None:
    calls: list[Any] = []

    def refuse(*args: Any, **options: Any) -> Any:
        calls.append(args)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    cut_to(source, source.parent / "out")
    from prune.model.loading import load_model, load_tokenizer

    load_tokenizer(str(demo_model))
    load_model(str(demo_model))
    with pytest.raises(PruneError, match="no-such-organisation/model: cannot be downloaded"):
        cut("no-such-organisation/model", source.parent / "other", drop_layers=[1])
    with pytest.raises(PruneError, match="cannot be downloaded"):
        load_model("no-such-organisation/model")
    assert calls == []


def test_exit_codes_of_user_mistakes_stay_apart_from_faults(source: Path) -> None:
    with pytest.raises(UsageError) as mistake:
        cut(str(source), source.parent / "out", drop_layers=[9], verify=False)
    assert mistake.value.exit_code == 2
