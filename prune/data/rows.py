"""The user's documents, row by row, in one form: what `domains` tokenises and `healing.prompts` prompts with.

They come from a file, a hub data set or memory. A row is a dictionary with `text`, or `prompt` + `completion`, or
`messages`, or `input_ids`, and perhaps `difficulty`. Rows of well-known benchmarks come under other column names; they
are worded as lm-eval's tasks word them, so that a model is calibrated on what it will be asked.
"""

from __future__ import annotations

import csv
import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from evals.local_data.files import RECORDS, records
from evals.text import NotText, content, kind, read_text, text
from prune.errors import PruneError, UsageError

END_OF_TEXT = "<|endoftext|>"
TEXT = ".txt"
ENDINGS = (TEXT, *RECORDS)
FORMS = "text, prompt + completion, messages, input_ids, question + answer, or problem + solution"
COLUMNS = {"text", "prompt", "messages", "input_ids"}  # of which a row has one
WORDINGS = {
    ("question", "answer"): ("Question: {}\nAnswer:", " {}"),  # lm-eval's gsm8k
    ("problem", "solution"): ("Problem:\n{}\n\nSolution:", " {}"),  # lm-eval's minerva_math
}
"""Column names of a benchmark -> its prompt and its completion."""
BESIDE_MESSAGES = ("tools", "documents", "chat_template_kwargs")
"""What a chat template may be given beside the messages."""
NOT_READ = ("functions", "images", "image", "videos", "video", "audios", "audio")
"""Columns beside messages that say more than their text, and that no template here can be given."""
Documents = str | Path | Iterable[str | Mapping[str, Any]]
"""Where a domain's documents are: a path, a hub data set, or the documents themselves, as text or rows."""
IN_MEMORY = "in memory"
"""What stands for the path of documents that have none."""


def place(name: str, source: Documents) -> str:
    """What messages call a domain's documents: `data math=gsm8k.jsonl`."""
    return f"data {name}={source}" if isinstance(source, str | Path) else f"data {name}"


def origin(source: Documents) -> str:
    """What result files call it: of a local file only the name, so that the same data give the same result wherever
    they lie."""
    if not isinstance(source, str | Path):
        return IN_MEMORY
    return Path(source).name if Path(source).is_file() else str(source)


def read_rows(name: str, source: Documents) -> Iterator[dict[str, Any]]:
    """The rows of one domain.

    Args:
        name: the domain, for messages.
        source: strings, each a document, or rows; or a `.txt` (documents separated by a line `<|endoftext|>`, or by
            blank lines when it has none), `.jsonl`, `.json` (a list of rows, or one a line), `.csv` or `.tsv` (the
            first line names the columns) or `.parquet` file; or a hub data set `org/name[:split]`.

    Raises:
        UsageError: the file is missing or of an unknown kind.
        PruneError: the file cannot be read as its ending says, or a row has a value of the wrong type.
    """
    where = place(name, source)
    found = _raw_rows(where, str(source)) if isinstance(source, str | Path) else _in_memory(where, source)
    for number, row in enumerate(found, start=1):
        yield _in_one_form(row, f"{where}: row {number}")


def _in_memory(where: str, rows: Iterable[Any]) -> Iterator[Any]:
    """Documents of a program: what a list there may be, a tuple or an array, a file's row has as a list."""
    if isinstance(rows, Mapping) or not isinstance(rows, Iterable):
        raise UsageError(f"{where}: is {type(rows).__name__}; give a path, or a list of strings or rows")
    for row in rows:
        if isinstance(row, str):
            yield {"text": row}
        elif isinstance(row, Mapping):
            ids: Any = row.get("input_ids")
            if isinstance(ids, tuple):
                ids = list(ids)
            elif hasattr(ids, "tolist"):  # numpy, torch
                ids = ids.tolist()
            yield dict(row) if ids is None else {**row, "input_ids": ids}
        else:
            yield row  # refused below, with its number


def _raw_rows(where: str, path: str) -> Iterator[Any]:
    file = Path(path)
    if file.is_file():
        suffix = file.suffix.lower()
        if suffix not in ENDINGS:
            raise UsageError(f"{where}: use a file that ends in {', '.join(ENDINGS)}")
        try:
            yield from _documents(file) if suffix == TEXT else records(file)
        except NotText as error:
            raise PruneError(f"{where}: {error}") from None
        except (csv.Error, ValueError) as error:
            raise PruneError(f"{where}: damaged ({' '.join(str(error).split())[:300]})") from None
    elif re.fullmatch(r"[\w.-]+/[\w.-]+(:[\w.]+)?", path) and not file.parent.is_dir():
        from datasets import load_dataset

        repository, _, split = path.partition(":")
        try:
            yield from load_dataset(repository, split=split or "train")
        except Exception as error:
            raise PruneError(f"{where}: no such file, and no such data set ({error})") from error
    else:
        raise UsageError(f"{where}: no such file")


def _documents(file: Path) -> Iterator[Any]:
    whole = read_text(file)
    parts = whole.split(END_OF_TEXT) if END_OF_TEXT in whole else re.split(r"\n\s*\n", whole)
    return ({"text": part.strip()} for part in parts if part.strip())


def _in_one_form(row: Any, where: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise PruneError(f"{where} is {kind(row)}, not an object with columns")
    filled = {
        column: value for column, value in row.items() if value is not None
    }  # a table has all columns in each row
    row = filled if filled.keys() & {*COLUMNS, *itertools.chain(*WORDINGS)} else {**row}
    if not row.keys() & COLUMNS:
        for (asked, answered), (prompt, completion) in WORDINGS.items():
            if asked in row and answered in row:
                given = [_text(row, column, where) for column in (asked, answered)]
                row |= {"prompt": prompt.format(given[0]), "completion": completion.format(given[1])}
    for column in ("text", "prompt", "completion"):
        if column in row:
            _text(row, column, where)
    _check_ids(row, where)
    if "messages" in row:
        row = _conversation(row, where)
    elif "prompt" in row and any(row.get(column) for column in ("tools", "functions")):
        raise PruneError(f"{where}: tools goes with messages, not with prompt: give the prompt as messages")
    difficulty = _difficulty(row, where)
    row.pop("difficulty", None)
    return row if difficulty is None else row | {"difficulty": difficulty}


def _text(row: Mapping[str, Any], column: str, where: str) -> str:
    try:
        return text(row[column])
    except NotText as error:
        raise PruneError(f"{where}: {column} {error}") from None


def _check_ids(row: dict[str, Any], where: str) -> None:
    ids = row.get("input_ids", [])
    if not isinstance(ids, list) or not all(type(token) is int and token >= 0 for token in ids):
        raise PruneError(f"{where}: input_ids is not a list of whole numbers of zero or more")
    start = row.get("answer_start", 1)
    if type(start) is not int or start < 0:
        raise PruneError(f"{where}: answer_start {start!r} is not a whole number of zero or more")


def _conversation(row: dict[str, Any], where: str) -> dict[str, Any]:
    """A row with messages whose contents are text, and what goes beside them as the template takes it."""
    turns = row["messages"]
    if not isinstance(turns, list) or not all(isinstance(turn, dict) and "role" in turn for turn in turns):
        raise PruneError(f"{where}: messages is not a list of objects with role and content")
    if not turns:
        raise PruneError(f"{where}: messages is empty")
    if column := next((column for column in NOT_READ if row.get(column)), None):
        cure = "give them as tools" if column == "functions" else "only text can be read: remove the row or the column"
        raise PruneError(f"{where}: {column} beside messages: {cure}")
    found = {**row, "messages": [_turn(turn, f"{where}: message {n}") for n, turn in enumerate(turns, start=1)]}
    for column in BESIDE_MESSAGES:
        if value := _structured(found.pop(column, None), f"{where}: {column}"):
            found[column] = value
    return found


def _turn(turn: Mapping[str, Any], where: str) -> dict[str, Any]:
    """One message without the fields that tables fill with nothing; a call of a tool may be all that it says."""
    found = {key: value for key, value in turn.items() if value is not None}
    if found.get("tool_calls"):
        found.setdefault("content", "")
    elif "tool_calls" in found:
        del found["tool_calls"]
    try:
        found["role"] = text(turn["role"])
    except NotText as error:
        raise PruneError(f"{where}: role {error}") from None
    try:
        found["content"] = content(found.get("content"))
    except NotText as error:
        raise PruneError(f"{where}: content {error}") from None
    return found


def _structured(value: Any, where: str) -> Any:
    """A list or an object, or the JSON of one, as tables hold it; None where there is nothing in it."""
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            raise PruneError(f"{where} is text that is not JSON: give a list or an object") from None
    if value and not isinstance(value, list | dict):
        raise PruneError(f"{where} is {kind(value)}, not a list or an object")
    return value or None


def _difficulty(row: dict[str, Any], where: str) -> float | None:
    """`difficulty`, or MATH's `level` (3, or "Level 3") where that is a number; other data name other things a level.

    None where the row has none, as MATH's "Level ?".
    """
    if row.get("difficulty") not in (None, ""):
        number = _number(row["difficulty"])
        if number is None:
            raise PruneError(f"{where}: difficulty {row['difficulty']!r} is not a number")
        return None if math.isnan(number) else number  # how a table says that it has none
    return _number(row.get("level"))


def _number(value: Any) -> float | None:
    text = re.sub(r"^level\s*", "", str(value).strip(), flags=re.IGNORECASE)
    try:
        return float(text) if not math.isinf(float(text)) else None
    except ValueError:
        return None
