"""Which public files serve which task: folder and file names, and the readers that understand their columns.

To add a data set, add a `Layout`. Names in braces are filled from the stock task: {name} is its dataset_name, {file}
the file that it would fetch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from evals.local_data import readers
from evals.local_data.readers import Reader, copy


@dataclass(frozen=True)
class Layout:
    """Files of one data set.

    Attributes:
        tasks: pattern of the lm-eval task names.
        folder: pattern that the path (folders and file) must contain, in lower case.
        splits: for each stock split, patterns of file names, in lower case.
        readers: forms, in the order in which they are tried.
        texts: columns of the stock rows that prompts and answers are made of; each must be text, or a list of texts.
        header: column names of a file that has none.
        labels: whether a file NAME.jsonl may have its labels in NAME-labels.lst, one a line.
        select: for a split that shares its file with others, the column and the range that belong to it.
    """

    tasks: str
    folder: str
    splits: Mapping[str, tuple[str, ...]]
    readers: tuple[Reader, ...]
    texts: frozenset[str] = frozenset()
    header: tuple[str, ...] = ()
    labels: bool = False
    select: dict[str, tuple[str, range]] = field(default_factory=dict)


def layout_of(task: str) -> Layout | None:
    """The layout of a task, if its public files are known here."""
    return next((layout for layout in LAYOUTS if re.fullmatch(layout.tasks, task)), None)


_TRAIN_TEST: dict[str, tuple[str, ...]] = {"train": (r"train\.\w+",), "test": (r"test\.\w+",)}
_INSTRUCTION = ("instruction", "answer")
_SCIENCE = (
    copy("question", "choices", "answerKey"),
    Reader(("question", "answerKey", "id"), readers.science_choices),
    Reader(_INSTRUCTION, readers.lettered_choices),
)
_TOKENISED = "words outside WikiText-2's vocabulary are <unk> in this file; the stock task reads the raw text"


def _texts(columns: str) -> frozenset[str]:
    return frozenset(columns.split())


def _science(name: str) -> dict[str, tuple[str, ...]]:
    names = {"train": "train", "validation": "(dev|validation)", "test": "test"}
    return {split: (rf"({name}[-_])?{word}\.\w+",) for split, word in names.items()}


LAYOUTS: tuple[Layout, ...] = (
    Layout(
        r"gsm8k(_cot.*|_solutions)?",
        r"gsm8k|grade.school.math",
        _TRAIN_TEST,
        (copy("question", "answer"),),
        texts=_texts("question answer"),
    ),
    Layout(
        r"minerva_math500|hendrycks_math500|math500_solutions",
        r"math.?500",
        _TRAIN_TEST,
        (copy("problem", "solution"),),
        texts=_texts("problem solution"),
    ),
    Layout(r"arc_easy", r"arc[-_]easy", _science("arc-easy"), _SCIENCE, texts=_texts("question choices")),
    Layout(
        r"arc_challenge(_chat)?",
        r"arc[-_]challenge",
        _science("arc-challenge"),
        _SCIENCE,
        texts=_texts("question choices"),
    ),
    Layout(
        r"openbookqa",
        r"openbookqa",
        {"train": (r"train\.\w+",), "validation": (r"(dev|validation)\.\w+",), "test": (r"test\.\w+",)},
        (
            copy("question_stem", "choices", "answerKey"),
            Reader(("question", "answerKey", "id"), readers.science_choices),
            Reader(_INSTRUCTION, readers.stem),
        ),
        texts=_texts("question_stem choices"),
    ),
    Layout(
        r"hellaswag",
        r"hellaswag",
        {
            "train": (r"(hellaswag_)?train\.\w+",),
            "validation": (r"(hellaswag_)?val(idation)?(_\w+)?\.\w+",),
        },
        (
            Reader(
                ("activity_label", "ctx_a", "ctx_b", "endings", "label"),
                lambda row: {**row, "label": str(row["label"])},
            ),
            Reader(("ctx", "endings", "label"), readers.merged_context),
        ),
        texts=_texts("activity_label ctx_a ctx_b endings"),
    ),
    Layout(
        r"piqa",
        r"piqa",
        {"train": (r"train\.\w+",), "validation": (r"(valid|validation|dev)\.\w+",)},
        (copy("goal", "sol1", "sol2", "label"),),
        labels=True,
        texts=_texts("goal sol1 sol2"),
    ),
    Layout(
        r"winogrande",
        r"winogrande",
        # The instruction files call the validation items (1267) `test`; WinoGrande's own test items have no answers.
        {"train": (r"train(_xl)?\.\w+",), "validation": (r"(dev|validation|test)\.\w+",)},
        (copy("sentence", "option1", "option2", "answer"), Reader(_INSTRUCTION, readers.blank_sentence)),
        texts=_texts("sentence option1 option2"),
    ),
    Layout(
        r"boolq",
        r"boolq",
        {"train": (r"train\.\w+",), "validation": (r"(val|validation|dev|test)\.\w+",)},
        (
            Reader(("question", "passage", "label"), readers.boolean_label),
            Reader(("question", "title", "answer", "passage"), readers.titled_passage),
            Reader(_INSTRUCTION, refuse="the passage that the stock prompt starts with is not in it"),
        ),
        texts=_texts("question passage"),
    ),
    Layout(
        r"lambada_openai",
        r"lambada",
        {"test": (r"(lambada_)?(openai_)?test(_en)?\.jsonl", r"test\.\w+")},
        (copy("text"),),
        texts=_texts("text"),
    ),
    Layout(
        r"arithmetic_\d\w\w",
        r"arithmetic",
        {"validation": (r"{file}",)},
        (copy("context", "completion"),),
        texts=_texts("context completion"),
    ),
    Layout(
        r"mgsm_(direct|native_cot|en_cot)_\w\w",
        r"mgsm",
        {"test": (r"mgsm_{name}\.tsv",), "train": ()},
        (Reader(("question", "number"), readers.multilingual_problem),),
        header=("question", "number"),
        texts=_texts("question"),
    ),
    Layout(
        r"ja_leaderboard_jcommonsenseqa",
        r"jcommonsenseqa|jglue",
        {
            "train": (r"(jcommonsenseqa[-_])?train[-\w.]*\.\w+",),
            "validation": (r"(jcommonsenseqa[-_])?valid(ation)?[-\w.]*\.\w+",),
        },
        (copy("question", *(f"choice{index}" for index in range(5)), "label"),),
        texts=_texts("question choice0 choice1 choice2 choice3 choice4"),
    ),
    Layout(
        r"wikitext",
        r"wikitext",
        {
            "train": (r"(wiki\.)?train(\.raw|\.tokens)?\.\w+",),
            "validation": (r"(wiki\.)?valid(ation)?(\.raw|\.tokens)?\.\w+",),
            "test": (r"(wiki\.)?test(\.raw|\.tokens)?\.\w+",),
        },
        (Reader(("page",), note=_TOKENISED),),
        texts=_texts("page"),
    ),
    Layout(
        r"mmlu_(?!pro)\w+",
        r"mmlu|hendrycks|data",
        {"test": (r"{name}_test\.csv",), "validation": (r"{name}_val\.csv",), "dev": (r"{name}_dev\.csv",)},
        (Reader(("question", "A", "B", "C", "D", "answer"), readers.textbook_question),),
        header=("question", "A", "B", "C", "D", "answer"),
        texts=_texts("question choices"),
    ),
    Layout(
        r"asdiv",
        r"asdiv",
        {"validation": (r"asdiv\.xml", r"validation\.\w+")},
        (copy("body", "question", "answer"), Reader(("Body", "Question", "Answer"), readers.word_problem)),
        texts=_texts("body question answer"),
    ),
    Layout(
        r"humaneval",
        r"human.?eval",
        {"test": (r"humaneval\.jsonl", r"test\.\w+")},
        (copy("task_id", "prompt", "canonical_solution", "test", "entry_point"),),
        texts=_texts("prompt canonical_solution test entry_point"),
    ),
    Layout(
        r"mbpp",
        r"mbpp",
        {"test": (r"mbpp\.jsonl",)},
        (copy("task_id", "text", "code", "test_list"),),
        # One file holds all splits; these are the published numbers of the test items.
        select={"test": ("task_id", range(11, 511))},
        texts=_texts("text code test_list"),
    ),
)
