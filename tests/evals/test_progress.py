"""Progress: off a terminal a line at least every so often, with counts and what is left; bars on one; else silence."""

from __future__ import annotations

import io
import re
import time

import pytest

from evals import progress
from evals.progress import clock, line, shown, stage

EVERY = 0.05


def test_a_line_names_every_stage_its_counts_and_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with stage("eval"), stage("task 1 of 3", item="gsm8k"), stage("answers", 2000, "requests") as answers:
        now += 60
        assert line() == "eval > task 1 of 3: gsm8k > answers: 0 of 2,000 requests; 1:00 elapsed"
        answers.advance(500)
        assert line().endswith("answers: 500 of 2,000 requests; 1:00 elapsed, about 3:00 left of answers")
    assert line() == ""


def test_what_a_resumed_run_had_done_before_does_not_count_as_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with stage("training", 100, "steps", done=80) as training:
        now = 10.0
        assert training.seconds_left is None
        training.at(90)
        assert training.seconds_left == pytest.approx(10.0)
        assert line() == "training: 90 of 100 steps; 0:10 elapsed, about 0:10 left"


def test_off_a_terminal_a_line_comes_every_so_often_though_the_work_says_nothing() -> None:
    stream = io.StringIO()
    with shown(stream=stream, every=EVERY), stage("analyze"), stage("measuring", 8, "documents", item="math"):
        time.sleep(6 * EVERY)
    lines = stream.getvalue().splitlines()
    assert len(lines) >= 3
    assert all(
        re.fullmatch(r"prune: analyze > measuring: 0 of 8 documents, math; 0:0\d elapsed", text) for text in lines
    )


@pytest.mark.parametrize("quiet", [True, False])
def test_nothing_is_written_when_nobody_asks_for_it_or_nothing_takes_time(quiet: bool) -> None:
    stream = io.StringIO()
    with shown(not quiet, stream=stream, every=EVERY if quiet else 60), stage("analyze"):
        time.sleep(3 * EVERY)
    assert stream.getvalue() == ""


def test_the_outermost_asker_shows_and_a_second_process_never(monkeypatch: pytest.MonkeyPatch) -> None:
    outer, inner, other = io.StringIO(), io.StringIO(), io.StringIO()
    with shown(stream=outer, every=EVERY), shown(stream=inner, every=EVERY), stage("a"):
        time.sleep(3 * EVERY)
    monkeypatch.setenv("RANK", "1")
    with shown(stream=other, every=EVERY), stage("a"):
        time.sleep(3 * EVERY)
    assert outer.getvalue()
    assert not inner.getvalue()
    assert not other.getvalue()


def test_a_stage_ends_with_its_work_also_when_that_fails() -> None:
    with pytest.raises(ValueError, match="x"), stage("a"):
        raise ValueError("x")
    assert line() == ""


def test_a_log_that_cannot_be_written_does_not_end_the_work() -> None:
    class Full(io.StringIO):
        def write(self, _: str) -> int:
            raise OSError(28, "No space left on device")

    with shown(stream=Full(), every=EVERY), stage("a"):
        time.sleep(3 * EVERY)


def test_on_a_terminal_there_are_bars_with_names_and_items(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(progress, "REFRESH", EVERY)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    stream = Terminal()
    with shown(stream=stream), stage("measuring", 8, "documents", item="math") as measuring:
        measuring.advance(3)
        time.sleep(10 * EVERY)
    assert "measuring: math" in stream.getvalue()
    assert "3/8" in stream.getvalue()


def test_times_are_read_as_a_clock_shows_them() -> None:
    assert [clock(s) for s in (0, 59.6, 3599, 3600, 90061)] == ["0:00", "1:00", "59:59", "1:00:00", "25:01:01"]
