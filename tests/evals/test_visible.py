"""Unseen characters are written out, all others stay, and JSON keeps its values."""

from __future__ import annotations

import json
import sys
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from evals.visible import on_one_line, visible

DRAWN = {"\u0600", "\u06dd", "\u070f", "\u0890", "\u0891", "\u08e2", "\U000110bd", "\U000110cd"}
"""Format characters that have a shape: signs that enclose numbers."""


def test_controls_are_written_as_json_escapes_them() -> None:
    assert visible("a\x1b[31mb\x9bc\u202ed\u200be\x7f\n\tf") == "a\\u001b[31mb\\u009bc\\u202ed\\u200be\\u007f\n\tf"
    assert on_one_line("a\nb\tc\rd") == "a\\u000ab\\u0009c\\u000dd"
    assert visible("\U000e0041") == "\\udb40\\udc41"
    assert visible("name-\udcff") == "name-\\udcff"


def test_every_control_and_format_character_of_unicode_is_unseen_but_those_with_a_shape() -> None:
    kinds = {"Cc", "Cf", "Zl", "Zp", "Cs"}
    for number in range(sys.maxunicode + 1):
        character = chr(number)
        if unicodedata.category(character) in kinds and character not in "\n\t\r":
            drawn = character in DRAWN or 0x600 <= number <= 0x605 or 0x13430 <= number <= 0x1343F
            assert (visible(character) == character) == drawn, hex(number)


def test_ordinary_text_of_any_script_stays() -> None:
    for text in ("plain", "日本語　全角", "Ünïcödé", "عربي", "हिन्दी", "a\u00a0b", "🎉"):
        assert visible(text) == text == on_one_line(text)


@given(st.recursive(st.text() | st.integers(), lambda v: st.lists(v) | st.dictionaries(st.text(), v)))
def test_json_keeps_its_values(value: object) -> None:
    assert json.loads(visible(json.dumps(value, ensure_ascii=False))) == value
