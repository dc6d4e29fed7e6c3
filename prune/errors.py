"""Errors a user can cause, each with the exit code that the command line returns for it.

Every message is one line that names the file, field or flag, and the cure; `str(error)` names arguments where the
command line shows flags. Anything else that escapes is a bug.
"""

from __future__ import annotations

from evals.errors import UserError


class PruneError(UserError):
    """Something the user can mend: exit code 1."""

    exit_code = 1


class UsageError(PruneError):
    """The command, a flag or a recipe field is wrong; nothing was started: exit code 2."""

    exit_code = 2


class GateFailed(PruneError):  # noqa: N818 (a verdict, not a malfunction)
    """The acceptance gate did not pass and was not overridden: exit code 3."""

    exit_code = 3


class OfOneProcess(PruneError):  # noqa: N818
    """What only this one of several processes has met, so that it says it itself: exit code 1."""


def nearest(word: str, valid: list[str] | tuple[str, ...]) -> str:
    """`word` and the valid names in one phrase, the closest one first: for 'unknown ...' messages."""
    import difflib

    close = difflib.get_close_matches(word, valid, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{word!r} ({hint}valid: {', '.join(sorted(valid))})"
