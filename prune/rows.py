"""The user's files, row by row, in one form: what `calibration` tokenises and `healing.prompts` prompts with.

A row is a dictionary with `text`, or `prompt` + `completion`, or `messages`, or `input_ids`, and perhaps `difficulty`.
Rows of well-known benchmarks come under other column names; they are worded as lm-eval's tasks word them, so that a
model is calibrated on what it will be asked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prune.errors import PruneError, UsageError

END_OF_TEXT = "<|endoftext|>"
FORMS = "text, prompt + completion, messages, input_ids, question + answer, or problem + solution"
WORDINGS = {
    ("question", "answer"): ("Question: {}\nAnswer:", " {}"),  # lm-eval's gsm8k
    ("problem", "solution"): ("Problem:\n{}\n\nSolution:", " {}"),  # lm-eval's minerva_math
}
"""Column names of a benchmark -> its prompt and its completion."""


def read_rows(name: str, path: str) -> Iterator[dict[str, Any]]:
    """The rows of one domain's file or hub data set.

    Args:
        name: the domain, for messages.
        path: a `.txt` (documents separated by a line `<|endoftext|>`, or by blank lines when it has none), `.jsonl`
            or `.parquet` file, or a hub data set `org/name[:split]`.

    Raises:
        UsageError: the file is missing or of an unknown kind.
        PruneError: a line is not a JSON object, or a row has a value of the wrong type.
    """
    where = f"--data {name}={path}"
    for number, row in enumerate(_raw_rows(where, path), start=1):
        yield _in_one_form(row, f"{where}: row {number}")


def _raw_rows(where: str, path: str) -> Iterator[Any]:
    file = Path(path)
    if file.is_file():
        if file.suffix == ".txt":
            text = file.read_text(encoding="utf8")
            parts = text.split(END_OF_TEXT) if END_OF_TEXT in text else re.split(r"\n\s*\n", text)
            yield from ({"text": part.strip()} for part in parts if part.strip())
        elif file.suffix == ".jsonl":
            for number, line in enumerate(file.read_text(encoding="utf8").splitlines(), start=1):
                if line.strip():
                    try:
                        yield json.loads(line)
                    except json.JSONDecodeError as error:
                        raise PruneError(f"{where}: line {number} is not JSON ({error.msg})") from None
        elif file.suffix == ".parquet":
            from datasets import Dataset

            yield from Dataset.from_parquet(str(file))  # type: ignore[misc]
        else:
            raise UsageError(f"{where}: use a .txt, .jsonl or .parquet file")
    elif re.fullmatch(r"[\w.-]+/[\w.-]+(:[\w.]+)?", path) and not file.parent.is_dir():
        from datasets import load_dataset

        repository, _, split = path.partition(":")
        try:
            yield from load_dataset(repository, split=split or "train")
        except Exception as error:
            raise PruneError(f"{where}: no such file, and no such data set ({error})") from error
    else:
        raise UsageError(f"{where}: no such file")


def _in_one_form(row: Any, where: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise PruneError(f"{where} is {type(row).__name__}, not an object with columns")
    row = {**row}
    if not row.keys() & {"text", "prompt", "messages", "input_ids"}:
        for (asked, answered), (prompt, completion) in WORDINGS.items():
            if asked in row and answered in row:
                row |= {"prompt": prompt.format(row[asked]), "completion": completion.format(row[answered])}
    for column in ("text", "prompt", "completion"):
        if column in row and not isinstance(row[column], str):
            raise PruneError(f"{where}: {column} is {type(row[column]).__name__}, not text")
    difficulty = row.get("difficulty", row.get("level"))  # MATH calls it level: 3, or "Level 3"
    if difficulty is not None:
        row["difficulty"] = _number(difficulty, where)
    return row


def _number(value: Any, where: str) -> float:
    found = re.fullmatch(r"(?:level\s*)?([-+]?\d+(?:\.\d+)?)", str(value).strip(), re.IGNORECASE)
    if not found:
        raise PruneError(f"{where}: difficulty {value!r} is not a number")
    return float(found[1])
