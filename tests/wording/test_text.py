"""Every sentence stands in every language; values are written as placeholders say; numbers have their units."""

import re
from pathlib import Path
from string import Formatter

import pytest

import prune
from evals.secrets import without_secrets
from prune.errors import UsageError
from prune.layer_runs import runs
from prune.wording import Message, Text, message
from prune.wording.message import ends
from prune.wording.numbers import quantity, size
from prune.wording.text import LANGUAGES, catalogue

EN, JA = Text(), Text("ja")


def plain(value: str) -> str:
    return value.replace("\N{NO-BREAK SPACE}", " ")


def placeholders(sentence: str) -> set[str]:
    return {field for _, field, _, _ in Formatter().parse(sentence) if field}


@pytest.mark.parametrize("lang", LANGUAGES)
def test_every_language_has_every_sentence_with_the_same_placeholders(lang: str) -> None:
    english = catalogue("en")
    assert catalogue(lang).keys() == english.keys()
    for key, sentence in catalogue(lang).items():
        assert placeholders(sentence) == placeholders(english[key]), key


@pytest.mark.parametrize("lang", LANGUAGES)
def test_every_way_of_writing_a_value_is_known(lang: str) -> None:
    formats = Text(lang).formats
    asked = {spec for sentence in catalogue(lang).values() for _, _, spec, _ in Formatter().parse(sentence) if spec}
    assert asked <= formats.keys()


def test_every_message_that_the_tool_sends_has_a_sentence() -> None:
    sources = [path.read_text(encoding="utf8") for path in Path(prune.__file__).parent.rglob("*.py")]
    sent = {key for source in sources for key in re.findall(r'\b(?:message|text)\(\s*"(\w+)"', source)}
    assert len(sent) > 100
    assert sent <= catalogue("en").keys()


def test_a_japanese_sentence_is_not_english() -> None:
    for key, sentence in catalogue("ja").items():
        words = re.sub(r"%?\{+[^}]*\}+", "", sentence)
        assert not re.search(r"[A-Za-z]{2,} [a-z]{2,} [a-z]{2,}", words.replace("vllm bench serve", "")), key


def test_an_unknown_language_is_refused_with_the_valid_ones() -> None:
    with pytest.raises(UsageError, match="en, ja"):
        Text("fr")


def test_a_message_survives_json_and_is_said_in_each_language() -> None:
    kept = message("screen_kept", suite={"en": "Sums", "ja": "計算"}, share=0.5, interval=ends(0.4, None))
    sent = message("missing_draft", suites=[{"en": "Sums", "ja": "計算"}, {"en": "Tales"}])
    for found in (kept, sent):
        assert Message.model_validate_json(found.model_dump_json()) == found
    assert plain(EN.say(kept)) == "Sums: keeps 50.0 % (at least 40.0 %, no upper limit)"
    assert JA.say(kept) == "計算の維持率は50.0%（40.0%以上、上限は定まらず）"
    assert EN.say(sent).startswith("Speculative decoding for Sums and Tales:")
    assert JA.say(sent).startswith("計算、Talesでの投機的デコーディング")  # without a Japanese title, the English one


def test_json_carries_the_sentence_beside_the_code() -> None:
    dumped = {"rows": [message("ends_low", lo=0.25).model_dump(mode="json")], "other": 1}
    assert JA.spelled(dumped)["rows"][0]["text"] == "25.0%以上、上限は定まらず"
    assert Message.model_validate(JA.spelled(dumped)["rows"][0]) == message("ends_low", lo=0.25)


def test_a_users_own_recommendation_is_kept() -> None:
    assert JA.known("recommendation", "keep deep") == "元のモデルを使い続ける"
    assert JA.known("recommendation", "ask Ada") == "ask Ada"


def test_layers_are_written_as_ranges_and_names_as_lists() -> None:
    assert runs([3, 8, 9, 10]) == [(3, 3), (8, 10)]
    assert EN.ranges([10, 8, 9, 3]) == "3, 8–10"
    assert [EN.joined(words) for words in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a and b", "a, b and c"]
    assert JA.joined(["a", "b", "c"]) == "a、b、c"


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (EN.percent(0.9434), "94.3 %"), (EN.percent(None), "–"), (JA.percent(0.9434), "94.3%"),
        (EN.interval(0.91, 0.97), "91.0–97.0 %"), (EN.interval(None, None), ""),
        (EN.interval(None, 1.1), "at most 110.0 %, no lower limit"),
        (EN.with_interval(0.9, 0.8, 1.0), "90.0 % (80.0–100.0 %)"), (EN.with_interval(0.9, None, None), "90.0 %"),
        (EN.count(4_730_000), "4.73 M"), (EN.count(138_000), "138 k"), (EN.count(12), "12"), (EN.count(8e9), "8 B"),
        (JA.count(4_730_000), "473万"), (JA.count(47_316_000), "4,730万"), (JA.count(8e9), "80億"),
        (JA.count(950), "950"),
        (size(9_460_000), "9.46 MB"), (size(128), "128 B"),
        (EN.duration(0.84), "0.8 s"), (EN.duration(74), "1 min 14 s"), (EN.duration(7320), "2 h 2 min"),
        (JA.duration(74), "1分14秒"), (JA.duration(7320), "2時間2分"),
        (quantity(0.0), "0"), (quantity(12345.6), "12,346"), (quantity(0.04567), "0.0457"),
    ],
)  # fmt: skip
def test_figures_carry_their_unit(shown: str, expected: str) -> None:
    assert plain(shown) == expected


def test_access_tokens_are_removed() -> None:
    token = "hf_" + "a1B2" * 8
    assert without_secrets(f"token: {token}\nlora_r: 16") == "token: [removed]\nlora_r: 16"
