"""Errors a user of `evals` can cause; one line each, naming the file, field or flag, and the cure.

`evals` compares any two models and depends on nothing else of this project, so it has its own two classes. A command
line turns `exit_code` into its exit status.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

FLAG = re.compile(r"(`[^`]*`)|(?<![\w-])(?:--(?=[a-z])|-(o)\b)")
"""A dash-dash before a name, or -o, outside of a command in backticks."""


class UserError(Exception):
    """What a user can mend. The text names options as the command line does; `str` as Python's callers know them."""

    exit_code = 1

    @property
    def flagged(self) -> str:
        """For the command line: `--num_layers`."""
        return super().__str__()

    def __str__(self) -> str:
        """For Python: `num_layers`; `output` for -o."""
        return FLAG.sub(lambda match: match[1] or ("output" if match[2] else ""), self.flagged)


class EvalError(UserError):
    """Something the user can mend: exit code 1."""

    exit_code = 1


class EvalUsageError(EvalError):
    """A suite, task or argument is wrong; nothing was started: exit code 2."""

    exit_code = 2


def nearest(word: str, valid: Sequence[str], shown: int = 12) -> str:
    """`word` and the valid names closest to it in one phrase: for 'unknown ...' messages."""
    import difflib

    close = difflib.get_close_matches(word, valid, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
    names = sorted(valid)
    if close and len(names) > shown:  # the first dozen of thousands helps nobody
        return f"{word!r} ({hint}there are {len(names):,})"
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return f"{word!r} ({hint}valid: {', '.join(names[:shown])}{more})"
