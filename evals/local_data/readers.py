"""From the columns of a public file to the columns that the stock lm-eval task reads.

One reader per published form. A reader names the columns by which the form is recognised, and turns a row into the
stock row or refuses it; whether that is faithful is stated where it is not plain copying. Prompts made from the rows
equal the stock task's wherever the source text is the same; document hashes may not (identifiers that a form leaves
out are absent).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class Reader:
    """One form of a data file.

    Attributes:
        columns: recognise the form; all must be there.
        convert: a row in this form to the stock row; raises ValueError for a row it cannot turn faithfully.
        refuse: why a file in this form cannot serve the task at all; empty: it can.
        note: what the user must know about figures from this form.
    """

    columns: tuple[str, ...]
    convert: Callable[[Row], Row] = dict
    refuse: str = ""
    note: str = ""


def copy(*columns: str) -> Reader:
    """The stock columns themselves."""
    return Reader(columns)


def lettered_choices(row: Row) -> Row:
    """`Answer1: a Answer2: b ...` inside `instruction` (the LLM-Adapters files) to a question and its choices."""
    pattern = r"Please choose the correct answer to the question: (.*)\n\n(Answer1: .*)\n\nAnswer format: (.*)"
    found = re.fullmatch(pattern, row["instruction"], re.DOTALL)
    if not found:
        raise ValueError("`instruction` is not 'question, blank line, Answer1: ...'")
    question, listed, form = found.groups()
    names = form.split("/")
    texts = _between(listed, [f"Answer{number + 1}: " for number in range(len(names))])
    if row["answer"] not in names:
        raise ValueError(f"answer {row['answer']!r} is none of {form}")
    labels = [chr(ord("A") + index) for index in range(len(names))]
    return {
        "question": question,
        "choices": {"text": texts, "label": labels},
        "answerKey": labels[names.index(row["answer"])],
    }


def _between(text: str, markers: list[str]) -> list[str]:
    """What stands after each marker, up to a blank and the next one."""
    starts = []
    for marker in markers:
        found = [m.start() for m in re.finditer(rf"(?:^|(?<= )){re.escape(marker)}", text)]
        if len(found) != 1:
            raise ValueError(f"{marker!r} stands {len(found)} times in the choices, so they cannot be told apart")
        starts.append(found[0])
    ends = [start - 1 for start in starts[1:]] + [len(text)]
    return [text[s + len(m) : e] for s, m, e in zip(starts, markers, ends, strict=True)]


def science_choices(row: Row) -> Row:
    """AI2's own ARC and OpenBookQA files: `question` holds `stem` and `choices`, a list of {text, label}."""
    question = row["question"]
    return {
        "id": row["id"],
        "question": question["stem"],
        "question_stem": question["stem"],
        "choices": {key: [choice[key] for choice in question["choices"]] for key in ("text", "label")},
        "answerKey": row["answerKey"],
    }


def stem(row: Row) -> Row:
    """A converted question under the name that OpenBookQA's task reads."""
    converted = lettered_choices(row)
    return {"question_stem": converted.pop("question"), **converted}


def blank_sentence(row: Row) -> Row:
    """`... sentence: S _ S\\n\\nOption1: a Option2: b Answer format: ...` to WinoGrande's columns."""
    pattern = (
        r"Please choose the correct answer to fill in the blank to complete the given sentence: (.*)"
        r"\n\nOption1: (.*) Option2: (.*) Answer format: option1/option2"
    )
    found = re.fullmatch(pattern, row["instruction"], re.DOTALL)
    answers = {"option1": "1", "option2": "2"}
    if not found or any(mark in "".join(found.groups()) for mark in ("Option1:", "Option2:")):
        raise ValueError("`instruction` is not 'sentence, blank line, Option1: ... Option2: ...'")
    if found[1].count("_") != 1 or row["answer"] not in answers:
        raise ValueError("the sentence has no single blank `_`, or the answer is neither option1 nor option2")
    return {"sentence": found[1], "option1": found[2], "option2": found[3], "answer": answers[row["answer"]]}


def merged_context(row: Row) -> Row:
    """HellaSwag with `ctx` = 'activity: first sentences. start of the last' to activity_label, ctx_a, ctx_b.

    ActivityNet contexts end in a fragment that starts in lower case after the last full stop: that is ctx_b. WikiHow
    contexts have no such fragment, and are refused: their parts cannot be told apart.
    """
    activity, colon, context = row["ctx"].partition(": ")
    ends = [found.end() for found in re.finditer(r"[.!?][\"')]* (?=\S)", context)]
    if not colon or not ends or context[ends[-1]].isupper():
        raise ValueError("`ctx` has no sentence end before a fragment in lower case, so its parts cannot be told apart")
    return {
        "activity_label": activity,
        "ctx_a": context[: ends[-1] - 1],
        "ctx_b": context[ends[-1] :],
        "endings": list(row["endings"]),
        "label": str(row["label"]),
    }


def titled_passage(row: Row) -> Row:
    """Google's BoolQ file to SuperGLUE's columns, whose passages start with the title and two dashes."""
    return {
        "question": row["question"],
        "passage": f"{row['title']} -- {row['passage']}",
        "label": int(row["answer"]),
    }


def boolean_label(row: Row) -> Row:
    """SuperGLUE's own .jsonl, where the label is true or false, to the hub's 1 or 0."""
    return {**row, "label": int(row["label"])}


def multilingual_problem(row: Row) -> Row:
    """MGSM's question and number (which may have thousands separators); test rows have no worked answer."""
    number = int(row["number"].replace(",", ""))
    return {"question": row["question"], "answer": None, "answer_number": number, "equation_solution": None}


def textbook_question(row: Row) -> Row:
    """MMLU's headerless .csv: question, four choices, letter."""
    return {
        "question": row["question"],
        "choices": [row[letter] for letter in "ABCD"],
        "answer": "ABCD".index(row["answer"]),
    }


def word_problem(row: Row) -> Row:
    """ASDiv's XML elements to the hub's columns."""
    names = {"Body": "body", "Question": "question", "Answer": "answer", "Solution-Type": "solution_type"}
    return {ours: row[theirs] for theirs, ours in names.items()}
