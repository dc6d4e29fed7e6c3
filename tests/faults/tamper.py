"""Damage to run directories, as hypothesis draws it, and what must come of it: our own error, or the same result.

A bad disk, an editor, half a copy: any file of a run, at any point of the run, gets another content, goes, or becomes
something else. Nobody who can compute the hashes again is kept out.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from evals.errors import UserError
from prune.cli import OF_THE_PLACE
from prune.runs.report import assemble, write_report
from tests.faults import tiny_run

SECONDS = 5.0
"""Of this process, for one case, whatever stages it does again."""
HOSTILE = (None, [], {}, "", "x" * 3000, -1, 10**30, 1e308, True, "../../etc", {"a": []})
"""What may stand in the place of any value of a JSON file."""
DRAWN = 8
"""One run in so many draws its page, which takes half of the time and is written from what was found whole."""
VARYING = ("report.", "log.txt", "scores.sqlite", ".lock")
"""What a run writes last and never reads; a cache, made again when something is to be scored; what is locked, file or
not."""


def _flip(path: Path, draw: Callable[..., Any]) -> None:
    raw = bytearray(path.read_bytes() or b"\0")
    raw[draw(st.integers(0, len(raw) - 1))] ^= 1 << draw(st.integers(0, 7))
    path.write_bytes(raw)


def _truncate(path: Path, draw: Callable[..., Any]) -> None:
    raw = path.read_bytes()
    path.write_bytes(raw[: draw(st.integers(0, max(0, len(raw) - 1)))])


def _garbage(path: Path, draw: Callable[..., Any]) -> None:
    path.write_bytes(draw(st.sampled_from([b"", b"[]", b"null", b"\xff\xfe\x00", b"{", b"a: [b\n", b"[" * 100_000])))


def _random(path: Path, draw: Callable[..., Any]) -> None:
    path.write_bytes(draw(st.binary(max_size=200)))


def _append(path: Path, draw: Callable[..., Any]) -> None:
    path.write_bytes(path.read_bytes() + draw(st.sampled_from([b"\n", b"\0", b"{}", b'{"key": "half'])))


def _remove(path: Path, _: Callable[..., Any]) -> None:
    path.unlink()


def _directory(path: Path, _: Callable[..., Any]) -> None:
    path.unlink()
    path.mkdir()


def _dangling(path: Path, _: Callable[..., Any]) -> None:
    path.unlink()
    path.symlink_to(path.with_name("nowhere"))


def _swap(path: Path, draw: Callable[..., Any]) -> None:
    others = sorted(p for p in path.parent.iterdir() if p.is_file() and p != path)
    if others:
        shutil.copyfile(draw(st.sampled_from(others)), path)


def _value(path: Path, draw: Callable[..., Any]) -> None:
    """Another value in one place of a JSON file, or of one line of JSON."""
    try:
        text = path.read_text(encoding="utf8")
    except UnicodeDecodeError:  # damaged before
        return _flip(path, draw)
    lines = [text] if path.suffix == ".json" else text.split("\n")
    number = draw(st.integers(0, len(lines) - 1))
    try:
        value = json.loads(lines[number])
    except json.JSONDecodeError:
        return _flip(path, draw)
    holder, key = {"": value}, ""
    for _ in range(draw(st.integers(1, 6))):
        inner = holder[key]  # type: ignore[index]
        keys = list(inner) if isinstance(inner, dict) else list(range(len(inner))) if isinstance(inner, list) else []
        if not keys:
            break
        holder, key = inner, draw(st.sampled_from(keys))
    holder[key] = draw(st.sampled_from(HOSTILE))  # type: ignore[index]
    lines[number] = json.dumps(value if key != "" else holder[""])  # type: ignore[call-overload]
    path.write_text("\n".join(lines), encoding="utf8")


DAMAGES = (_flip, _truncate, _garbage, _random, _append, _remove, _directory, _dangling, _swap)


def damaged(root: Path, draw: Callable[..., Any]) -> str:
    """Damage one file, or two, of a run directory; what was done, in words."""
    done = []
    for _ in range(draw(st.integers(1, 2))):
        path = draw(st.sampled_from(sorted(p for p in root.rglob("*") if p.is_file())))
        own = (_value,) * 4 if path.suffix in (".json", ".jsonl") else ()
        damage = draw(st.sampled_from([*DAMAGES, *own]))
        damage(path, draw)
        done.append(f"{damage.__name__[1:]} {path.relative_to(root)}")
    return ", ".join(done)


def attempt(work: Callable[[], Any]) -> str:
    """`done`, or our own error's class; anything else is raised."""
    try:
        work()
    except UserError as error:
        if not str(error).strip() or "Traceback" in str(error):
            raise
        return type(error).__name__
    except OSError as error:
        if error.errno not in OF_THE_PLACE:
            raise
        return errno.errorcode[error.errno]
    return "done"


def check(recipe: Path, states: Path, expected: Path, scratch: Path, cases: int, counts: Path, number: int = 0) -> None:
    """Draw so many damages to the run directories below `states`; go on with each, and write its report again.

    Args:
        recipe: theirs.
        states: run directories, finished or killed at some point.
        expected: `tiny_run.outcome` of an undisturbed run, as JSON.
        scratch: where copies are made.
        cases: how many damages.
        counts: file that receives how often what came of them, from time to time.
        number: of the draw; another one gives other damages.
    """
    wanted = json.loads(expected.read_text(encoding="utf8"))
    outcomes: Counter[str] = Counter()
    slowest = 0.0

    def keep_counts() -> None:
        counts.write_text(json.dumps({**outcomes, "slowest_seconds": round(slowest, 2)}), encoding="utf8")

    @seed(number)
    @settings(
        max_examples=cases, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.data())
    def case(data: st.DataObject) -> None:
        nonlocal slowest
        state = data.draw(st.sampled_from(sorted(p.name for p in states.iterdir())))
        root = scratch / "run"
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(states / state, root, symlinks=True)
        what = f"{state}: {damaged(root, data.draw)}"
        drawn = data.draw(st.integers(0, DRAWN - 1)) == 0
        began = time.process_time()
        try:
            reported = attempt(lambda: write_report(root, assemble(root), "en"))
            with contextlib.nullcontext() if drawn else mock.patch("prune.reporting.page.render_html"):
                came = attempt(lambda: tiny_run.run(recipe, root))
            if came == "done":
                found = json.loads(json.dumps(tiny_run.outcome(root)))
                differ = [n for n in wanted.keys() | found.keys() if wanted.get(n) != found.get(n)]
                assert not [n for n in differ if not n.startswith(VARYING)], f"silently changed: {differ}"
            slowest = max(slowest, time.process_time() - began)
            assert time.process_time() - began < SECONDS, "too slow"
        except BaseException:
            print(f"case: {what}", file=sys.stderr, flush=True)
            raise
        outcomes[f"report {reported}"] += 1
        outcomes[f"run {came}"] += 1
        if outcomes.total() % 100 == 0:
            keep_counts()

    gc.collect()
    gc.freeze()  # what is there already is no garbage of a case's; a run looks for its own often
    try:
        case()
    finally:
        keep_counts()
