"""Public data files as rows: .jsonl, .json (a list or lines), .csv, .tsv, .parquet, .txt and .xml.

Knows file formats, not tasks. A file without column names (MGSM's .tsv, MMLU's .csv) gets those the caller gives.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evals.errors import EvalUsageError

Row = dict[str, Any]


def read_rows(path: Path, header: Sequence[str] = ()) -> list[Row]:
    """All rows of one file.

    Args:
        header: column names of a .csv or .tsv file that has none of its own.

    Raises:
        EvalUsageError: an unknown format, or a file that does not hold what its name says (line named).
    """
    readers = {".jsonl": _json, ".json": _json, ".parquet": _parquet, ".txt": _pages, ".xml": _problems}
    try:
        if path.suffix in {".csv", ".tsv"}:
            return _table(path, header)
        if path.suffix not in readers:
            raise EvalUsageError(f"{path}: cannot read {path.suffix} files; give .jsonl, .json, .csv, .tsv or .parquet")
        rows = readers[path.suffix](path)
    except (ValueError, OSError, UnicodeDecodeError) as error:
        raise EvalUsageError(f"{path}: damaged: {str(error).splitlines()[0]}") from error
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise EvalUsageError(f"{path}: holds no rows; expected one JSON object a line, or a list of them")
    return rows


def _json(path: Path) -> list[Row]:
    text = path.read_text(encoding="utf8")
    if text.lstrip().startswith("["):
        return list(json.loads(text))
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise ValueError(f"line {number} is not JSON ({error})") from error
    return rows


def _parquet(path: Path) -> list[Row]:
    import pyarrow.parquet

    return list(pyarrow.parquet.read_table(path).to_pylist())


def _table(path: Path, header: Sequence[str]) -> list[Row]:
    tabs = path.suffix == ".tsv"
    with path.open(encoding="utf8", newline="") as handle:
        # A tab separated file has no quoting: a quotation mark there is part of the text.
        lines = csv.reader(handle, delimiter="\t", quoting=csv.QUOTE_NONE) if tabs else csv.reader(handle)
        rows = [line for line in lines if line]
    names = list(header) or rows.pop(0)
    for number, line in enumerate(rows, start=1):
        if len(line) != len(names):
            raise ValueError(f"row {number} has {len(line)} columns where {', '.join(names)} were expected")
    return [dict(zip(names, line, strict=True)) for line in rows]


def _pages(path: Path) -> list[Row]:
    """WikiText as one `page` a document: a page starts at a line `= Title =` (but not `= = Section = =`)."""
    pages: list[list[str]] = [[]]
    for line in path.read_text(encoding="utf8").split("\n"):
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
