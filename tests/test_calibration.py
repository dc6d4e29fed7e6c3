"""Files to documents: which columns are read, what counts as the answer, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import lm_eval
import pytest
import yaml
from lm_eval.tasks.minerva_math.utils import doc_to_text
from lm_eval.utils import apply_template
from transformers import AutoTokenizer

import prune
from prune.calibration import load_domain
from prune.errors import PruneError, UsageError
from prune.healing.prompts import read_prompts
from prune.healing.settings import GenerateSettings

MODEL = Path(prune.__file__).parent / "embedded" / "model"
CHAT = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: "
    "{% endif %}"
)
GSM8K = {"question": "Tom has 3 cats. How many?", "answer": "He has 3.\n#### 3"}
MATH = {"problem": "What is 2 plus 3?", "solution": "It is 5."}


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(MODEL)


def write(tmp_path, *rows):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def parts(document, tokenizer):
    """The prompt and the answer of a document, as text."""
    ids = document.input_ids
    return tokenizer.decode(ids[: document.answer_start]), tokenizer.decode(ids[document.answer_start :])


def test_gsm8k_is_worded_as_its_task_words_it(tmp_path, tokenizer):
    task = yaml.load((Path(lm_eval.__file__).parent / "tasks/gsm8k/gsm8k.yaml").read_text(), Loader=yaml.BaseLoader)
    asked, answer = apply_template(task["doc_to_text"], GSM8K), apply_template(task["doc_to_target"], GSM8K)
    path = write(tmp_path, GSM8K)
    (document,) = load_domain("math", path, tokenizer).documents
    assert parts(document, tokenizer) == (asked, f" {answer}")  # lm-eval puts a blank between the two
    ((prompt,), excluded) = read_prompts("math", path, tokenizer, GenerateSettings(), None)
    assert (tokenizer.decode(prompt.input_ids), excluded) == (asked, 0)


@pytest.mark.parametrize(("level", "difficulty"), [(4, 4.0), ("Level 2", 2.0), (None, None)])
def test_math_is_worded_as_its_task_words_it_and_its_level_is_the_difficulty(tmp_path, tokenizer, level, difficulty):
    row = MATH | ({} if level is None else {"level": level})
    (document,) = load_domain("math", write(tmp_path, row), tokenizer).documents
    assert parts(document, tokenizer) == (doc_to_text(MATH), " It is 5.")
    assert document.difficulty == difficulty


def test_only_the_last_answer_of_a_conversation_counts(tmp_path, tokenizer):
    chat = AutoTokenizer.from_pretrained(MODEL)
    chat.chat_template = CHAT
    turns = [("user", "What is 2 plus 3?"), ("assistant", "5"), ("user", "And 4?"), ("assistant", "9")]
    path = write(tmp_path, {"messages": [{"role": role, "content": text} for role, text in turns]})
    (document,) = load_domain("math", path, chat).documents
    prompt, answer = parts(document, chat)
    assert answer.strip() == "9"
    assert prompt.count("assistant:") == 2
    ((asked,), _) = read_prompts("math", path, chat, GenerateSettings(), None)
    assert chat.decode(asked.input_ids).strip() == prompt.strip()  # the answer in the file is not part of the prompt
    with pytest.raises(UsageError, match="no chat template"):
        load_domain("math", path, tokenizer)


def test_a_token_across_prompt_and_completion_counts_as_the_answer(tmp_path, tokenizer):
    whole = tokenizer("the little girl")["input_ids"]
    row = {"prompt": "the litt", "completion": "le girl"}
    (document,) = load_domain("general", write(tmp_path, row), tokenizer).documents
    assert list(document.input_ids) == whole
    assert tokenizer.decode(whole[: document.answer_start]) == "the"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": None}, "row 1: text is NoneType, not text"),
        ({"prompt": 3, "completion": "4"}, "row 1: prompt is int, not text"),
        ({"text": "a story", "difficulty": "hard"}, "row 1: difficulty 'hard' is not a number"),
        ([1, 2], "row 1 is list, not an object"),
        ({"sentence": "a story"}, r"columns \['sentence'\]; give text, prompt \+ completion"),
    ],
)
def test_rows_that_cannot_be_read_are_named(tmp_path, tokenizer, row, message):
    with pytest.raises(PruneError, match=message):
        load_domain("general", write(tmp_path, row), tokenizer)
