"""Files to documents: which columns are read, what counts as the answer, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import lm_eval
import numpy as np
import pytest
import yaml
from lm_eval.tasks.minerva_math.utils import doc_to_text
from lm_eval.utils import apply_template
from transformers import AutoTokenizer

import prune
from prune.api._inputs import check_files, load_domains
from prune.data.account import account
from prune.data.domains import load_domain
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


@pytest.mark.parametrize(
    ("level", "difficulty"), [(4, 4.0), ("Level 2", 2.0), (None, None), ("Level ?", None), ("high school", None)]
)
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
        ({"text": None}, "row 1: text is null, not text"),
        ({"prompt": 3, "completion": "4"}, "row 1: prompt is a number, not text: write it as text, "),
        ({"text": "a story", "difficulty": "hard"}, "row 1: difficulty 'hard' is not a number"),
        ([1, 2], "row 1 is a list, not an object"),
        ({"input_ids": "12 13"}, "row 1: input_ids is not a list of whole numbers"),
        ({"input_ids": [1, 2.5, 3]}, "row 1: input_ids is not a list of whole numbers"),
        ({"input_ids": [[1, 2, 3]]}, "row 1: input_ids is not a list of whole numbers"),
        ({"input_ids": [1, 2, 3], "answer_start": "x"}, "row 1: answer_start 'x' is not a whole number"),
        ({"messages": ["hello"]}, "row 1: messages is not a list of objects with role and content"),
        ({"question": "who", "answer": ["Ann", "A."]}, "row 1: answer is a list, not text"),
        ({"question": "who", "answer": {"text": "Ann"}}, "row 1: answer is an object, not text"),
        ({"problem": "1 + 1", "solution": 2}, "row 1: solution is a number, not text: write it as text"),
        ({"question": "who", "answer": None}, r"row 1 has the columns \['question'\]; give text"),
        ({"text": "cut \ud83d here"}, r"row 1: text holds half of a character \(\\ud83d at position 5\)"),
        ({"messages": [{"role": "user", "content": None}]}, "row 1: message 1: content is null, not text"),
        ({"messages": [{"role": "user", "content": 4}]}, "row 1: message 1: content is a number, not text"),
        ({"messages": [{"role": "user", "content": "\udc00"}]}, "row 1: message 1: content holds half of a character"),
        ({"messages": [{"role": None, "content": "a"}]}, "row 1: message 1: role is null"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url"}]}]},
            "row 1: message 1: content part 2 is of type 'image_url'; only text parts can be read",
        ),
        ({"messages": [{"role": "user", "content": "a"}], "images": ["a.png"]}, "row 1: images beside messages"),
        ({"messages": [{"role": "user", "content": "a"}], "tools": "{add"}, "row 1: tools is text that is not JSON"),
        ({"messages": [{"role": "user", "content": "a"}], "tools": 4}, "row 1: tools is a number, not a list"),
        ({"prompt": "a", "completion": "b", "tools": [{"name": "add"}]}, "row 1: tools goes with messages"),
        ({"sentence": "a story"}, r"columns \['sentence'\]; give text, prompt \+ completion"),
    ],
)
def test_rows_that_cannot_be_read_are_named(tmp_path, tokenizer, row, message):
    with pytest.raises(PruneError, match=message):
        load_domain("general", write(tmp_path, row), tokenizer)


def test_another_difficulty_is_other_data(tmp_path, tokenizer):
    hashes = {load_domain("d", write(tmp_path, row), tokenizer).sha256 for row in (MATH, MATH | {"level": 4})}
    assert len(hashes) == 2  # or a resumed run would go on with the old answer


@pytest.mark.parametrize("difficulty", [None, float("nan")])
def test_a_row_may_lack_its_difficulty(tmp_path, tokenizer, difficulty):
    (document,) = load_domain("d", write(tmp_path, {"text": "a dog", "difficulty": difficulty}), tokenizer).documents
    assert document.difficulty is None


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("mark.jsonl", '\ufeff{"text": "a dog"}\r\n{"text": "a cat"}\r\n'),
        ("mark.txt", "\ufeffa dog\r\n\r\na cat\r\n"),
        ("capitals.TXT", "a dog\n\na cat"),
        ("list.json", '[{"text": "a dog"}, {"text": "a cat"}]'),
        ("lines.json", '{"text": "a dog"}\n{"text": "a cat"}\n'),
        ("table.csv", 'number,text\r\n1,a dog\r\n2,"a cat"\r\n'),
        ("table.tsv", "text\tlevel\na dog\t1\na cat\t2\n"),
    ],
)
def test_files_as_editors_and_tools_write_them_hold_the_same_documents(tmp_path, tokenizer, name, content):
    path = tmp_path / name
    path.write_bytes(content.encode())
    documents = load_domain("d", str(path), tokenizer).documents
    assert [d.input_ids for d in documents] == [tuple(tokenizer(text)["input_ids"]) for text in ("a dog", "a cat")]


def test_line_separators_inside_a_json_string_do_not_end_the_line(tmp_path, tokenizer):
    path, text = tmp_path / "rows.jsonl", "a dog\u2028a cat\u0085"
    path.write_text(json.dumps({"text": text}, ensure_ascii=False) + "\n", encoding="utf8")
    (document,) = load_domain("d", str(path), tokenizer).documents
    assert document.input_ids == tuple(tokenizer(text)["input_ids"])


@pytest.mark.parametrize("row", [{"text": "a dog"}, {"prompt": "a", "completion": " dog"}])
def test_the_columns_that_other_rows_of_a_table_have_may_be_empty(tmp_path, tokenizer, row):
    table = (
        dict.fromkeys(["text", "prompt", "completion", "messages", "input_ids", "question", "answer", "level"]) | row
    )
    (document,) = load_domain("d", write(tmp_path, table), tokenizer).documents
    assert document.input_ids == tuple(tokenizer("a dog")["input_ids"])
    gsm8k = table | dict.fromkeys(row) | GSM8K
    (document,) = load_domain("d", write(tmp_path, gsm8k), tokenizer).documents
    assert tokenizer.decode(document.input_ids).startswith("Question: Tom")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("latin.txt", b"caf\xe9", r"latin\.txt: is not UTF-8 text \(byte 0xe9 in line 1\): save it as UTF-8"),
        ("latin.jsonl", b'{"text": "a"}\n{"text": "caf\xe9"}', "is not UTF-8 text .byte 0xe9 in line 2."),
        ("wide.jsonl", '{"text": "a"}'.encode("utf-16"), r"wide\.jsonl: is UTF-16 \(as PowerShell's > writes it\)"),
        ("cut.json", b'[\n{"text": ', "line 2 is not JSON"),
        ("cut.jsonl", b'{"text": "a"}\n{"text": ', "line 2 is not JSON"),
        ("cut.parquet", b"PAR1\x00", r"cut\.parquet: damaged \(Parquet file size is 5 bytes"),
        ("rows.xml", b"<a/>", "use a file that ends in .txt, .jsonl, .json, .csv, .tsv, .parquet"),
    ],
)
def test_files_that_cannot_be_read_are_named(tmp_path, tokenizer, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises((PruneError, UsageError), match=message):
        load_domain("d", str(tmp_path / name), tokenizer)


def test_a_domain_named_twice_is_refused(tmp_path):
    path = write(tmp_path, {"text": "a dog"})
    with pytest.raises(UsageError, match="data math: the domain is named twice"):
        check_files([f"math={path}", f"general={path}", f"math={path}"])


def test_an_answer_from_the_first_token_on_counts_from_the_second(tmp_path, tokenizer):
    path = write(tmp_path, {"input_ids": [5, 6, 7], "answer_start": 0})
    assert load_domain("a", path, tokenizer).documents[0].answer_start == 1


@pytest.mark.parametrize("options", [{"seq_length": -1}, {"seq_length": 1}, {"calib_num_samples": 0}])
def test_a_number_that_leaves_nothing_is_refused(tmp_path, tokenizer, options):
    path = write(tmp_path, {"text": "Once upon a time"})
    with pytest.raises(UsageError, match=rf"{next(iter(options))} .*: give [12] or more"):
        load_domain("a", path, tokenizer, **options)


@pytest.mark.parametrize(
    "rows",
    [
        ["a dog", "a cat"],
        ("a dog", {"text": "a cat"}),
        ({"text": text} for text in ("a dog", "a cat")),
        [{"prompt": "a dog", "completion": " ran", "difficulty": 2}, {"messages": [{"role": "user", "content": "hi"}]}],
        [{"input_ids": (5, 6, 7), "answer_start": 2}, {"input_ids": np.array([8, 9])}],
        [GSM8K, MATH | {"level": "Level 4"}],
    ],
)
def test_documents_in_memory_are_those_of_a_file_with_the_same_rows(tmp_path, rows):
    chat = AutoTokenizer.from_pretrained(MODEL)
    chat.chat_template = CHAT
    (given,) = check_files({"d": rows}).values()
    found = load_domain("d", given, chat)
    lines = [{"text": row} if isinstance(row, str) else dict(row) for row in given]
    for line in lines:
        line |= {"input_ids": [int(i) for i in line["input_ids"]]} if "input_ids" in line else {}
    read = load_domain("d", write(tmp_path, *lines), chat)
    assert found.documents == read.documents
    assert len(found.documents) == 2
    assert found.sha256 == read.sha256
    assert found.describe()["source"] == "in memory"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "data is missing"),
        ({"d": {"text": "a dog"}}, "data d: is dict; give a path, or a list of strings or rows"),
        ({"d": 3}, "data d: is int; give a path"),
        ({"d": []}, "data d: holds no documents"),
        ({"d": ["a dog", 4]}, "data d: row 2 is a number, not an object with columns"),
        ({"d": [{"text": 4}]}, "data d: row 1: text is a number, not text"),
        ({"d": [{"sentence": "a dog"}]}, r"data d: row 1 has the columns \['sentence'\]"),
        (["a dog ran"], "data 'a dog ran': write NAME=PATH.* or give a mapping of names to documents"),
        ({"d": Path("missing")}, "data d=missing: no such file"),
    ],
)
def test_data_in_memory_that_cannot_be_read_is_named_by_argument_and_row(tokenizer, data, message):
    with pytest.raises(PruneError, match=message):
        load_domains(data, tokenizer, 512, None, 0)


def test_an_account_counts_what_was_left_out_and_why(tokenizer):
    long = {"prompt": "one dog and one cat and one bird", "completion": " ran"}
    domain = load_domain("math", ["a dog", "", long], tokenizer, seq_length=4)
    assert account({"math": domain.describe()}) == [("math", 1, 2, 1, 1)]


TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {}}}]
USES_TOOLS = "{% if tools %}<tools>{{ tools | tojson }}</tools>{% endif %}" + CHAT
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + CHAT
SKIPS_SYSTEM = CHAT.replace("{% for m in messages %}", "{% for m in messages if m.role != 'system' %}")
TURNS = [{"role": "user", "content": "Add 1 and 2"}, {"role": "assistant", "content": "3"}]
SYSTEM = [{"role": "system", "content": "Be brief"}]


def chatting(template):
    chat = AutoTokenizer.from_pretrained(MODEL)
    chat.chat_template = template
    return chat


def listed(text):
    """A message's content as parts, cut in two."""
    return [{"type": "text", "text": text[:3]}, {"type": "text", "text": text[3:]}]


def test_text_parts_of_a_message_are_the_text_in_one_piece(tmp_path):
    chat = chatting(CHAT)
    parts = [{**turn, "content": listed(turn["content"])} for turn in TURNS]
    whole, cut = (load_domain("d", write(tmp_path, {"messages": m}), chat).documents for m in (TURNS, parts))
    assert whole == cut
    assert "Add 1 and 2" in chat.decode(cut[0].input_ids)


@pytest.mark.parametrize("tools", [TOOLS, json.dumps(TOOLS)])
def test_tools_beside_messages_are_rendered_by_the_template(tmp_path, tools):
    chat = chatting(USES_TOOLS)
    (document,) = load_domain("d", write(tmp_path, {"messages": TURNS, "tools": tools}), chat).documents
    text = chat.apply_chat_template(TURNS, tools=TOOLS, tokenize=False)
    assert chat.decode(document.input_ids) == text
    assert '"name": "add"' in text
    assert chat.decode(document.input_ids[document.answer_start :]).strip() == "3"


@pytest.mark.parametrize("nothing", [None, [], ""])
def test_a_table_may_have_a_column_of_tools_with_nothing_in_it(tmp_path, nothing):
    row = {"messages": [{**turn, "tool_calls": nothing} for turn in TURNS], "tools": nothing}
    assert len(load_domain("d", write(tmp_path, row), chatting(CHAT)).documents) == 1


CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "add", "arguments": {"a": 1}}}]}


@pytest.mark.parametrize(
    ("template", "row", "message"),
    [
        (CHAT, {"messages": TURNS, "tools": TOOLS}, "row 2: the tokenizer's chat template leaves out tools"),
        (CHAT, {"messages": TURNS, "documents": [{"text": "a"}]}, "row 2: .* leaves out documents"),
        (CHAT, {"messages": [TURNS[0], CALL]}, "row 2: the tokenizer's chat template leaves out tool_calls"),
        (SKIPS_SYSTEM, {"messages": SYSTEM + TURNS}, "row 2: .* leaves out the system message"),
        (NO_SYSTEM, {"messages": SYSTEM + TURNS}, r"row 2: .* refuses this conversation \(System role not supported\)"),
        ("{{ messages[0].content + messages[0].no }}", {"messages": TURNS}, "row 2: .* refuses this conversation"),
    ],
)
def test_what_a_template_refuses_or_leaves_out_is_named_by_row(tmp_path, template, row, message):
    path = write(tmp_path, {"text": "a story"}, row)
    with pytest.raises(PruneError, match=message):
        load_domain("d", path, chatting(template))
    with pytest.raises(PruneError, match=message):
        read_prompts("d", path, chatting(template), GenerateSettings(), None)


def test_a_template_that_is_no_jinja_is_said_to_be_that(tmp_path):
    with pytest.raises(PruneError, match=r"row 1: the tokenizer's chat template is no valid Jinja \(line 1: .*mend"):
        load_domain("d", write(tmp_path, {"messages": TURNS}), chatting("{% for m in messages %}{{ m.content }"))


@pytest.mark.parametrize("name", ["long.csv", "long.tsv", "LONG.CSV", "Long.Tsv"])
def test_a_field_of_a_table_may_be_of_any_length_and_its_ending_in_any_case(tmp_path, tokenizer, name):
    text = '"Yes" she said ' * 20_000
    quoted = '"' + text.replace('"', '""') + '"' if name.lower().endswith("csv") else text
    (tmp_path / name).write_text(f"text\n{quoted}\na dog\n")
    long, short = load_domain("d", str(tmp_path / name), tokenizer, seq_length=1_000_000).documents
    assert len(text) > 131_072  # where Python's csv stops unless told
    assert long.input_ids == tuple(tokenizer(text)["input_ids"])
    assert short.input_ids == tuple(tokenizer("a dog")["input_ids"])


class Counting:
    """A tokenizer that counts what it is asked for: a token a word, none added."""

    def __init__(self):
        self.asked = []
        self.bos_token_id = self.eos_token_id = None

    def __call__(self, text, **_):
        self.asked.append(text)
        return {"input_ids": [1] * len(text.split())}


def test_a_dry_run_reads_every_row_but_tokenises_only_a_sample_and_says_so(tmp_path):
    rows = [{"text": "word " * (3 + number % 40)} for number in range(5000)] + [{"text": "one"}] * 500
    path, counting = write(tmp_path, *rows), Counting()
    found = load_domain("a", path, counting, seq_length=20, sample=True).describe()
    assert len(counting.asked) <= 2 * 256
    whole = load_domain("a", path, Counting(), seq_length=20).describe()
    assert found["estimated_from"] == 256
    for name in ("documents", "tokens", "excluded_too_short"):
        assert found[name] == pytest.approx(whole[name], rel=0.1 if name != "excluded_too_short" else 0.5)
    sampled = load_domain("a", path, Counting(), seq_length=20, sample=True)
    assert len(sampled.as_listed) == found["documents"]
    few = load_domain("a", path, Counting(), seq_length=20, calib_num_samples=50, sample=True)
    assert few.describe() == load_domain("a", path, Counting(), seq_length=20, calib_num_samples=50).describe()
    with pytest.raises(PruneError, match="row 5501"):
        load_domain("a", write(tmp_path, *rows, {"text": 7}), Counting(), sample=True)


def test_a_dry_run_does_not_tokenise_a_long_text_to_its_end(tmp_path):
    (tmp_path / "book.txt").write_text("word " * 1_000_000)
    counting = Counting()
    (document,) = load_domain("a", str(tmp_path / "book.txt"), counting, seq_length=64, sample=True).documents
    assert len(document.input_ids) == 64
    assert max(map(len, counting.asked)) < 10_000
