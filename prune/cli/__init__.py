"""The command line: Typer commands over `prune.api`. No mathematics, and nothing heavy is imported early."""

from __future__ import annotations

import errno
import io
import logging
import os
import re
import signal
import sys
import time
import traceback
import warnings
from types import TracebackType
from typing import NoReturn

from prune import NO_DOCSTRINGS

INTERRUPTED = 130
OF_THE_PLACE = {
    errno.ENOSPC: "free space there, or choose another -o",
    errno.EDQUOT: "free space there, or choose another -o",
    errno.EROFS: "choose another -o",
    errno.EACCES: "mend its permissions, or choose another -o",
    errno.EPERM: "mend its permissions, or choose another -o",
    errno.EISDIR: "remove the directory that stands in the place of a file, or choose another -o",
    errno.ENAMETOOLONG: "give a shorter one",
    errno.ENOTDIR: "remove the file that stands in the place of a directory, or choose another -o",
}
"""Failures of the disk or the directory that a user can mend, with the cure; any other OSError is a bug."""

SLEEPING_THREADS = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
"""Let threads that wait for others sleep: on a busy machine a spinning one keeps the others from their core."""

LET_THE_FIRST_SPEAK = 2.0
"""Seconds: a launcher ends all processes when one ends."""

GOES_ON = {
    **dict.fromkeys(("run", "demo", "heal", "generate", "teach"), "the same command with --resume goes on"),
    "eval": "the same command goes on where it stopped",
    "plan": "the same command uses the scores that it made",
}
"""What an interrupted command does when it is started again; every other one starts anew."""


def main() -> NoReturn:
    """Entry point of the console script; returns the exit codes of `prune.errors` (130 when interrupted)."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for name, value in SLEEPING_THREADS.items():  # read when torch is loaded
        os.environ.setdefault(name, value)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore", category=FutureWarning)  # of libraries among themselves; no user can act on it
    signal.signal(signal.SIGTERM, _interrupt)
    _speak_safely()
    if not _speaks():
        sys.stdout = open(os.devnull, "w", encoding="utf8")  # noqa: SIM115 (open until the process ends)
    for stream in (sys.stdout, sys.stderr):  # a terminal of another encoding must not end a run
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(_run())


def _speak_safely() -> None:
    """What libraries log or warn of, and the traceback of a bug, are shown as all else is."""
    from prune.shown import ShownRecord, document

    def bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        print(document("".join(traceback.format_exception(kind, error, trace))), file=sys.stderr)

    logging.setLogRecordFactory(ShownRecord)
    plain = warnings.formatwarning
    warnings.formatwarning = lambda *warning, **options: document(plain(*warning, **options))
    sys.excepthook = bug


def _speaks() -> bool:
    """Of several processes that a launcher started, only the first talks to the user."""
    return int(os.environ.get("WORLD_SIZE", "1")) < 2 or os.environ.get("RANK", "0") == "0"


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _run() -> int:
    from typer import Abort
    from typer._click.exceptions import ClickException  # Typer carries its own copy of click

    from evals.errors import UserError
    from prune.cli.app import build
    from prune.errors import OfOneProcess

    if sys.flags.optimize > 1:
        return _say(NO_DOCSTRINGS, 1)
    try:
        code = build(sys.argv[1:])(standalone_mode=False)
        if code == INTERRUPTED:  # Typer turns a KeyboardInterrupt into its exit code
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except (Abort, KeyboardInterrupt):
        command = next((a for a in sys.argv[1:] if not a.startswith("-")), "")
        return _say(f"interrupted; {GOES_ON.get(command, 'nothing was written')}", INTERRUPTED)
    except ClickException as error:
        return _say(error.format_message(), error.exit_code)
    except UserError as error:
        return _say(_as_flag(error.flagged), error.exit_code, alone=isinstance(error, OfOneProcess))
    except OSError as error:
        if error.errno not in OF_THE_PLACE:
            raise
        where = f"{error.filename}: " if error.filename else ""
        return _say(f"{where}{error.strerror}; {OF_THE_PLACE[error.errno]}", 1)
    except MemoryError:
        return _say("out of memory: use a smaller --batch_size or --seq_length, or a machine with more", 1)
    except UnicodeEncodeError as error:  # a name out of a directory that is not UTF-8; those given are checked first
        return _say(f"a name or a text is not UTF-8 ({error.object[error.start - 20 : error.end]!r}): rename it", 1)


def _as_flag(message: str) -> str:
    """A message that begins with an argument's name begins with the flag's."""
    import typer

    from prune.cli.app import build

    asked = next((a for a in sys.argv[1:] if not a.startswith("-")), "")
    command = getattr(typer.main.get_command(build(sys.argv[1:])), "commands", {}).get(asked)
    flags = {option for parameter in command.params for option in parameter.opts} if command else set()
    word = re.match(r"\w+(?=[\s:])", message)  # not the beginning of a path
    return f"--{message}" if word and f"--{word[0]}" in flags else message


def _say(message: str, code: int, *, alone: bool = False) -> int:
    """Print what went wrong, once: of several processes the first does, unless one is `alone` with it."""
    from prune.shown import shown

    if not _speaks() and not alone:
        time.sleep(LET_THE_FIRST_SPEAK)
    else:
        print(f"prune: {shown(' '.join(message.split()))}", file=sys.stderr)
    return code
