"""What a person reads on a terminal or in a log: no secrets, and nothing that moves the cursor."""

from __future__ import annotations

import logging

from evals.secrets import without_secrets
from evals.visible import on_one_line, visible


def shown(text: object) -> str:
    """A value as one line, or as a cell, of a terminal or log."""
    return on_one_line(without_secrets(str(text)))


def document(text: str) -> str:
    """A text of several lines."""
    return visible(without_secrets(text))


class ShownRecord(logging.LogRecord):
    """A log record whose message is shown so, by whichever library it was made and whichever handler writes it."""

    def getMessage(self) -> str:  # noqa: N802 (logging's own name)
        return document(super().getMessage())


class ShownFormatter(logging.Formatter):
    """A formatter whose messages are one line each, with a traceback below."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's own name)
        record.message = shown(record.message)
        return super().formatMessage(record)

    def format(self, record: logging.LogRecord) -> str:
        return document(super().format(record))
