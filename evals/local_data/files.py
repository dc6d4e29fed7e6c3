"""Public data files as rows: .jsonl, .json (a list or lines), .csv, .tsv, .parquet, .txt and .xml.

Knows file formats, not tasks. A file without column names (MGSM's .tsv, MMLU's .csv) gets those the caller gives.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evals.errors import EvalUsageError
from evals.text import NotText, decoded, read_text

Row = dict[str, Any]
RECORDS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
"""Endings of files that hold rows; .txt and .xml hold other things, which only a task can tell."""
csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # a document is one field; what a C long holds everywhere


def read_rows(path: Path, header: Sequence[str] = ()) -> list[Row]:
    """All rows of one file.

    Args:
        header: column names of a .csv or .tsv file that has none of its own.

    Raises:
        EvalUsageError: an unknown format, or a file that does not hold what its name says (line named).
    """
    readers = {".txt": _pages, ".xml": _problems}
    suffix = path.suffix.lower()
    if suffix not in {*RECORDS, *readers}:
        raise EvalUsageError(f"{path}: cannot read {path.suffix} files; give {', '.join(RECORDS)}")
    try:
        rows = records(path, header) if suffix in RECORDS else readers[suffix](path)
    except NotText as error:
        raise EvalUsageError(f"{path}: {error}") from None
    except (ValueError, OSError, csv.Error) as error:
        raise EvalUsageError(f"{path}: damaged: {' '.join(str(error).split())[:300]}") from error
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise EvalUsageError(f"{path}: holds no rows; expected one JSON object a line, or a list of them")
    return rows


def records(path: Path, header: Sequence[str] = ()) -> list[Any]:
    """What a file with one of the endings `RECORDS` holds, row by row as it stands there.

    Args:
        header: column names of a .csv or .tsv file that has none of its own.

    Raises:
        NotText: it is not UTF-8.
        ValueError, csv.Error: the file does not hold what its name says (line named).
    """
    suffix = path.suffix.lower()
    if suffix in {".csv", ".tsv"}:
        return _table(path, header)
    return _parquet(path) if suffix == ".parquet" else _json(path)


def _json(path: Path) -> list[Any]:
    text = read_text(path)
    if path.suffix.lower() == ".json" and text.lstrip().startswith("["):
        return list(_parsed(text))
    # Not splitlines, which also splits at characters that JSON strings may hold (U+2028, U+0085).
    lines = enumerate(text.split("\n"))
    return [_parsed(line, before) for before, line in lines if line.strip()]


def _parsed(text: str, lines_before: int = 0) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {lines_before + error.lineno} is not JSON ({error.msg})") from error


def _parquet(path: Path) -> list[Any]:
    import pyarrow.parquet

    return list(pyarrow.parquet.ParquetFile(path).read().to_pylist())


def _table(path: Path, header: Sequence[str]) -> list[Row]:
    tabs = path.suffix.lower() == ".tsv"
    handle = io.StringIO(decoded(path.read_bytes()), newline="")  # csv reads line ends itself
    # A tab separated file has no quoting: a quotation mark there is part of the text.
    lines = csv.reader(handle, delimiter="\t", quoting=csv.QUOTE_NONE) if tabs else csv.reader(handle)
    rows = [line for line in lines if line]
    if not rows:
        return []
    names = list(header) or rows.pop(0)
    for number, line in enumerate(rows, start=1):
        if len(line) != len(names):
            raise ValueError(f"row {number} has {len(line)} columns where {', '.join(names)} were expected")
    return [dict(zip(names, line, strict=True)) for line in rows]


def _pages(path: Path) -> list[Row]:
    """WikiText as one `page` a document: a page starts at a line `= Title =` (but not `= = Section = =`)."""
    pages: list[list[str]] = [[]]
    for line in read_text(path).split("\n"):
        merged = line.replace("= = =", "===").replace("= =", "==").strip()
        if merged.startswith("= ") and merged.endswith(" ="):
            if "\n".join(pages[-1]).strip():
                pages.append([])
            else:
                pages[-1] = []
        pages[-1].append(line)
    return [{"page": "\n".join(page)} for page in pages]


def _problems(path: Path) -> list[Row]:
    """ASDiv's XML: one <Problem> a row, its children as columns."""
    from xml.etree import ElementTree

    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise ValueError(f"not XML ({error})") from error
    return [{part.tag: (part.text or "").strip() for part in problem} for problem in root.iter("Problem")]
