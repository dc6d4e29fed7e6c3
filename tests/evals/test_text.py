"""What counts as text, and how a value or a file that does not is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evals.errors import EvalUsageError
from evals.suite import load_suite
from evals.text import NotText, content, read_text, require_text, text, text_lines


@pytest.mark.parametrize("value", ["", "a dog", "\N{GRINNING FACE}", "null", "\x00"])
def test_a_string_is_text(value: str) -> None:
    assert text(value) == content(value) == value


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (None, "is null, not text"),
        (True, "is true or false, not text"),
        (2, 'is a number, not text: write it as text, "2"'),
        (0.5, "is a number"),
        (["a"], "is a list"),
        ({"text": "a"}, "is an object"),
        (b"a", "is bytes"),
        ("cut \ud83d", r"half of a character \(\\ud83d at position 5\)"),
    ],
)
def test_everything_else_is_not(value: Any, what: str) -> None:
    with pytest.raises(NotText, match=what):
        text(value)


def test_parts_are_joined_without_anything_between_them() -> None:
    assert content([{"type": "text", "text": "a "}, {"text": "dog"}, {"type": "input_text", "text": "."}]) == "a dog."
    assert content([]) == ""


@pytest.mark.parametrize(
    ("parts", "what"),
    [
        ([{"type": "image"}], "part 1 is of type 'image'; only text parts"),
        ([{"type": "text", "text": "a"}, {"type": "refusal", "refusal": "no"}], "part 2 is of type 'refusal'"),
        ([{"type": "text", "text": None}], "part 1: its text is null"),
        ([{"type": "text"}], "part 1 is of type 'text'"),
        (["a"], "part 1 is str; a part of a message is an object"),
    ],
)
def test_parts_that_are_not_text_are_named(parts: list[Any], what: str) -> None:
    with pytest.raises(NotText, match=what):
        content(parts)


def test_a_file_is_text_when_it_is_utf8_with_or_without_a_mark(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes("\ufeffé\r\nb\rc\u2028d\n\n".encode())
    assert read_text(tmp_path / "a") == "é\nb\nc\u2028d\n\n"
    assert text_lines(tmp_path / "a") == ["é", "b", "c\u2028d"]


@pytest.mark.parametrize(
    ("raw", "what"),
    [
        (b"a\nb\ncaf\xe9\n", r"is not UTF-8 text \(byte 0xe9 in line 3\): save it as UTF-8"),
        ("a".encode("utf-16"), "is UTF-16 .as PowerShell's > writes it., not UTF-8: save it as UTF-8"),
        ("a".encode("utf-16-be"), None),  # without a mark it cannot be told from text with zero bytes
    ],
)
def test_a_file_in_another_encoding_says_which_line_and_what_to_do(tmp_path: Path, raw: bytes, what: str) -> None:
    (tmp_path / "a").write_bytes(raw)
    if what is None:
        assert read_text(tmp_path / "a") == "\x00a"
        return
    with pytest.raises(NotText, match=what):
        read_text(tmp_path / "a")


def test_half_characters_are_found_anywhere_in_a_value() -> None:
    require_text({"a": ["b", {"c": 1}]}, "x.json")
    with pytest.raises(EvalUsageError, match=r"x\.json: a: 2: c holds half of a character"):
        require_text({"a": ["b", {"c": "\udc00"}]}, "x.json")


@pytest.mark.parametrize(
    ("raw", "what"),
    [
        ("title: déjà vu\n".encode("latin-1"), r"s\.yaml: is not UTF-8 text \(byte 0xe9 in line 1\)"),
        (b'title: "\\uD83D"\ntasks: [{task: piqa}]\n', r"s\.yaml: title holds half of a character"),
        (b"tasks: [\n", r"s\.yaml: not valid YAML: while parsing .* line 2"),
    ],
)
def test_a_suite_that_is_not_text_is_named(tmp_path: Path, raw: bytes, what: str) -> None:
    (tmp_path / "s.yaml").write_bytes(raw)
    with pytest.raises(EvalUsageError, match=what):
        load_suite(tmp_path / "s.yaml")
