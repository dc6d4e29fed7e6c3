"""What counts as text, decided in one place for documents, prompts, answers, conversations and the user's own items.

A value is text when it is a string that UTF-8 can hold; the content of a message may be a list of text parts, which are
joined. Nothing else is turned into text: Python's way of showing a list, a number or None is not what a data set means.
Likewise bytes are text when they are UTF-8.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from evals.errors import EvalUsageError

LONE_SURROGATE = re.compile("[\ud800-\udfff]")
"""Half of a pair of UTF-16: what is left of an emoji that was cut in two, or of a byte that is no UTF-8 in a name."""
TEXT_PARTS = (None, "text", "input_text", "output_text")
UTF16 = (b"\xff\xfe", b"\xfe\xff")


class NotText(ValueError):  # noqa: N818 (a finding about a value; who knows file and row makes the error)
    """A value that is not text; the message goes after the name of its column."""


def text(value: Any) -> str:
    """The value, if it is text.

    Raises:
        NotText: it is not a string, or UTF-8 cannot hold it.
    """
    if not isinstance(value, str):
        raise NotText(f"is {kind(value)}, not text{_cure(value)}")
    if lone := LONE_SURROGATE.search(value):
        raise NotText(
            f"holds half of a character (\\u{ord(lone[0]):04x} at position {lone.start() + 1}), which is not text: "
            "mend or remove it, as `text.encode('utf8', 'replace').decode()` does"
        )
    return value


def content(value: Any) -> str:
    """What a message says: text, or a list of text parts (`{"type": "text", "text": ...}`), joined.

    Raises:
        NotText: anything else, such as an image.
    """
    if not isinstance(value, list):
        return text(value)
    return "".join(_part(part, number) for number, part in enumerate(value, start=1))


def _part(part: Any, number: int) -> str:
    if not isinstance(part, dict):
        raise NotText(f"part {number} is {kind(part)}; a part of a message is an object with type and text")
    if part.get("type") not in TEXT_PARTS or "text" not in part:
        raise NotText(f"part {number} is of type {part.get('type')!r}; only text parts can be read: remove it")
    try:
        return text(part["text"])
    except NotText as error:
        raise NotText(f"part {number}: its text {error}") from None


def kind(value: Any) -> str:
    """What a value is, in the words of JSON."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, list | tuple):
        return "a list"
    return "an object" if isinstance(value, dict) else type(value).__name__


def _cure(value: Any) -> str:
    if isinstance(value, int | float):
        return f": write it as text, {json.dumps(json.dumps(value))}"
    return ""


def decoded(raw: bytes) -> str:
    """Bytes of a text file as text; a byte order mark, which editors on Windows put first, is left out.

    Raises:
        NotText: not UTF-8; says where, and how such a file comes about.
    """
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if raw.startswith(UTF16):
            raise NotText("is UTF-16 (as PowerShell's > writes it), not UTF-8: save it as UTF-8") from None
        line = raw.count(b"\n", 0, error.start) + 1
        raise NotText(f"is not UTF-8 text (byte 0x{raw[error.start]:02x} in line {line}): save it as UTF-8") from None


def require_text(value: Any, where: str) -> None:
    """Refuse strings anywhere in a value that UTF-8 cannot hold: what was read as JSON or YAML can have them.

    Raises:
        EvalUsageError: `where` and the place in the value.
    """
    if isinstance(value, str):
        try:
            text(value)
        except NotText as error:
            raise EvalUsageError(f"{where} {error}") from None
    elif isinstance(value, dict):
        for key, item in value.items():
            require_text(key, f"{where}: a key")
            require_text(item, f"{where}: {key}")
    elif isinstance(value, list):
        for number, item in enumerate(value, start=1):
            require_text(item, f"{where}: {number}")


def read_text(path: Path) -> str:
    """A text file, its line ends as `\\n`.

    Raises:
        NotText: as for `decoded`; the message goes after the file's name.
        OSError: it cannot be read.
    """
    return re.sub("\r\n?", "\n", decoded(path.read_bytes()))


def text_lines(path: Path) -> list[str]:
    """The lines of a file that are not empty. JSON strings may hold what `splitlines` also splits at (U+2028, U+0085).

    Raises:
        NotText, OSError: as for `read_text`.
    """
    return [line for line in read_text(path).split("\n") if line.strip()]
