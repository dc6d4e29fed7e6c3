"""One beginning of text and one end, whoever wrote them."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import evals.text_ids
from evals.text_ids import text_ids
from prune.data.domains import load_domain
from prune.healing.prompts import read_prompts
from prune.healing.settings import GenerateSettings

WORDS = {word: i for i, word in enumerate(["<unk>", "<s>", "</s>", "a", "b", "c"])}
BOS, EOS = 1, 2


def tokenizer(form: str) -> Any:
    """Words between spaces; `form` says what is added, such as `<s> $A`."""
    made = Tokenizer(models.WordLevel(WORDS, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens(["<s>", "</s>"])
    special = [(token, WORDS[token]) for token in ("<s>", "</s>")]
    made.post_processor = processors.TemplateProcessing(single=form, special_tokens=special)
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.mark.parametrize(
    ("form", "text", "ids"),
    [
        ("<s> $A", "a b", [BOS, 3, 4]),
        ("<s> $A", "<s> a b", [BOS, 3, 4]),
        ("<s> $A", "<s> <s> a", [BOS, BOS, 3]),  # two of the text's own
        ("<s> $A", "a <s> b", [BOS, 3, BOS, 4]),
        ("<s> $A", "<s>", [BOS]),
        ("<s> $A", "", [BOS]),
        ("$A", "<s> a", [BOS, 3]),
        ("$A", "<s> <s> a", [BOS, BOS, 3]),
        ("<s> $A </s>", "<s> a </s>", [BOS, 3, EOS]),
        ("<s> $A </s>", "<s> a", [BOS, 3, EOS]),
        ("$A </s>", "a </s>", [3, EOS]),
        ("$A </s>", "a", [3, EOS]),
    ],
)
def test_a_special_token_that_both_write_stands_once(form: str, text: str, ids: list[int]) -> None:
    assert text_ids(tokenizer(form), text) == ids


def test_it_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    evals.text_ids._say.cache_clear()
    with caplog.at_level(logging.WARNING, "evals"):
        for text in ("a", "<s> a", "<s> b"):
            text_ids(tokenizer("<s> $A"), text)
    assert [record.getMessage()[:22] for record in caplog.records] == ["text that begins with "]


def test_data_and_prompts_read_text_with_and_without_it_alike(tmp_path: Path) -> None:
    own = tokenizer("<s> $A")
    forms: list[dict[str, str]] = [{"text": "{}a b c"}, {"prompt": "{}a b", "completion": " c"}]
    for row in forms:
        found, asked = [], []
        for begin in ("", "<s> "):
            path = tmp_path / "rows.jsonl"
            path.write_text(json.dumps({key: value.format(begin) for key, value in row.items()}))
            found.append(load_domain("x", path, own).documents)
            asked.append(read_prompts("x", path, own, GenerateSettings(max_new_tokens=4), None)[0])
        assert found[0] == found[1]
        assert found[0][0].input_ids == (BOS, 3, 4, 5)
        assert asked[0] == asked[1]
