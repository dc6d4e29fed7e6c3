"""Strings in both languages, and numbers with units."""

from string import Formatter

import pytest

from prune.errors import UsageError
from prune.reporting.text import Text, duration, interval, languages, percent, quantity, runs, scaled
from prune.secrets import without_secrets


def plain(value: str) -> str:
    return value.replace("\N{NO-BREAK SPACE}", " ")


def test_every_language_has_every_key_with_the_same_placeholders() -> None:
    english = languages()["en"]
    for code, strings in languages().items():
        assert strings.keys() == english.keys(), code
        for key, sentence in strings.items():
            names = {field for _, field, _, _ in Formatter().parse(sentence) if field}
            assert names == {field for _, field, _, _ in Formatter().parse(english[key]) if field}, (code, key)


def test_an_unknown_language_is_refused_with_the_valid_ones() -> None:
    with pytest.raises(UsageError, match="en, ja"):
        Text("fr")


def test_a_users_own_recommendation_is_kept() -> None:
    assert Text("ja").known("recommendation", "keep deep") == "元の深さを保つ"
    assert Text("ja").known("recommendation", "ask Ada") == "ask Ada"


def test_layers_are_written_as_ranges() -> None:
    assert runs([3, 8, 9, 10]) == [(3, 3), (8, 10)]
    assert Text().ranges([10, 8, 9, 3]) == "3, 8–10"


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (percent(0.9434), "94.3 %"), (percent(None), "–"), (interval(0.91, 0.97), "91.0–97.0 %"),
        (interval(None, 1), ""),
        (scaled(4_730_000), "4.73 M"), (scaled(9_460_000, "B"), "9.46 MB"), (scaled(12), "12"), (scaled(8e9), "8 B"),
        (duration(0.84), "0.8 s"), (duration(74), "1 min 14 s"), (duration(7320), "2 h 2 min"),
        (quantity(0.0), "0"), (quantity(12345.6), "12,346"), (quantity(0.04567), "0.0457"),
    ],
)  # fmt: skip
def test_figures_carry_their_unit(shown: str, expected: str) -> None:
    assert plain(shown) == expected


def test_access_tokens_are_removed() -> None:
    token = "hf_" + "a1B2" * 8
    assert without_secrets(f"token: {token}\nlora_r: 16") == "token: [removed]\nlora_r: 16"
