"""Writes, for each task, a YAML file that includes the stock definition and reads rows converted from local files.

Everything but the place of the data stays lm-eval's: prompts, few-shot examples, filters, metrics, process_docs.
Looked for in this order, below the folder the user names:

1. the data set's public files, by name and columns (`layouts.py`);
2. a copy of the hub data set, ORG/NAME as lm-eval calls it;
3. TASK/SPLIT.jsonl (or .json, .parquet) with the stock columns.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from evals.catalogue import definition, definition_of
from evals.errors import EvalUsageError
from evals.homes import cache_directory
from evals.local_data.files import Row, read_rows
from evals.local_data.layouts import Layout, layout_of
from evals.records import write_exact
from evals.text import NotText, read_text, text

DEPTH = 4
"""Folders below the user's that are searched."""
SUFFIXES = (".jsonl", ".json", ".parquet")
LISTS = ("choices", "endings", "test_list")
"""Columns that hold several texts."""


@dataclass
class Served:
    """Tasks that read local files.

    Attributes:
        folder: an lm-eval include_path with one YAML file a task.
        notes: what the user must know about some task's figures.
        failures: tasks that cannot be served, each with the reason and the cure in one line.
    """

    folder: Path
    tasks: list[str] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


def serve(tasks: Sequence[tuple[str, int | None]], source: Path, work: Path | None = None) -> Served:
    """Make lm-eval tasks read files below `source`.

    Args:
        tasks: lm-eval task names (no groups), each with the shot count asked for; None: the task's own.
        source: the user's folder of data files.
        work: where converted rows and task files are kept; a cache folder of the user's when None.

    Raises:
        EvalUsageError: `source` is no directory.
    """
    if not source.is_dir():
        raise EvalUsageError(f"local_data {source}: no such directory")
    paths = sorted(_files(source.resolve()), key=lambda p: (len(p.parts), str(p)))
    root = (work or cache_directory("local_data")) / hashlib.blake2b(
        str(source.resolve()).encode(), digest_size=8
    ).hexdigest()
    served = Served(root)
    for task in dict(tasks):
        try:
            shots = {count for name, count in tasks if name == task}
            note = _serve_one(task, shots, source.resolve(), paths, root)
        except EvalUsageError as error:
            served.failures[task] = f"task {task}: {error}"
            continue
        served.tasks.append(task)
        if note:
            served.notes[task] = note
    return served


def _files(source: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(source, followlinks=True):
        if len(Path(folder).relative_to(source).parts) >= DEPTH:
            folders.clear()
        yield from (Path(folder) / name for name in names)


def _serve_one(task: str, shots: set[int | None], source: Path, paths: list[Path], root: Path) -> str:
    stock_path = definition_of(task)
    if stock_path is None:
        raise EvalUsageError("no single task file of lm-eval has this name, so no local file can be put under it")
    stock = definition(stock_path)
    override: dict[str, Any] = {"include": str(stock_path), "task": task, "dataset_name": None}
    snapshot = source / str(stock.get("dataset_path"))
    found, note = _public_files(task, stock, source, paths, root)
    if not found and stock.get("dataset_path") != "json" and snapshot.is_dir():
        override |= {"dataset_path": str(snapshot), "dataset_name": stock.get("dataset_name")}
    else:
        found = found or _plain_files(task, stock, source)
        override |= {"dataset_path": "json", "dataset_kwargs": {"data_files": {k: str(v) for k, v in found.items()}}}
        if {path.suffix.lower() for path in found.values()} == {".parquet"}:
            override["dataset_path"] = "parquet"
        override |= _splits(task, stock, shots, set(found))
    write_exact(root / f"{task}.yaml", yaml.safe_dump(override, allow_unicode=True, sort_keys=False))
    return note


def _evaluated_split(stock: dict[str, Any]) -> str:
    return str(stock.get("test_split") or stock.get("validation_split"))


def _splits(task: str, stock: dict[str, Any], shots: set[int | None], found: set[str]) -> dict[str, Any]:
    """Split fields without those that no local file holds; examples must come from where the stock task has them.

    Raises:
        EvalUsageError: the split that is scored, or the one that examples come from, is not there.
    """
    scored = _evaluated_split(stock)
    if scored not in found:
        raise EvalUsageError(_missing(task, stock, scored))
    wanted = max(stock.get("num_fewshot") or 0 if count is None else count for count in shots)
    config = stock.get("fewshot_config") or {}
    examples = stock.get("fewshot_split") or config.get("split")
    own = "samples" in config
    if not examples and not own:
        examples = stock.get("training_split") or stock.get("validation_split") or scored
    if examples and examples not in found and not own:
        if wanted:
            raise EvalUsageError(
                f"its {wanted} examples come from elsewhere: {_missing(task, stock, examples)}; or num_fewshot: 0"
            )
        examples = None
    fields: dict[str, Any] = {}
    for name in ("training_split", "validation_split", "test_split"):
        if stock.get(name) and stock[name] not in found:
            fields[name] = None
    if stock.get("fewshot_split") and not examples:
        fields["fewshot_split"] = scored
    return fields


def _missing(task: str, stock: dict[str, Any], split: str) -> str:
    layout = layout_of(task)
    choices = []
    if layout and layout.splits.get(split):
        names = " or ".join(_readable(pattern, stock) for pattern in layout.splits[split])
        forms = " or ".join(", ".join(reader.columns) for reader in layout.readers if not reader.refuse)
        choices.append(f"{names} in a folder named like {_readable(layout.folder, stock)} (columns {forms})")
    if stock.get("dataset_path") != "json":
        choices.append(f"a copy of the hub data set as {stock.get('dataset_path')}/")
    choices.append(f"{task}/{split}.jsonl with the columns that the stock task reads")
    return f"no local file for its split {split}: give {'; or '.join(choices)}"


def _fill(pattern: str, stock: dict[str, Any]) -> str:
    files = (stock.get("dataset_kwargs") or {}).get("data_files") or {}
    fetched = next(iter(files.values()), "") if isinstance(files, dict) else ""
    return pattern.replace("{name}", re.escape(str(stock.get("dataset_name")).lower())).replace(
        "{file}", re.escape(str(fetched).rsplit("/", 1)[-1])
    )


def _readable(pattern: str, stock: dict[str, Any]) -> str:
    """A pattern of ours as a name for people: `test.jsonl` for `test\\.\\w+`."""
    text = _fill(pattern, stock).replace(r"\.\w+", ".jsonl").replace(r"[-\w.]*", "").replace("(_\\w+)?", "")
    text = re.sub(r"\(([^()|]*)[^()]*\)\??", r"\1", text).replace("[-_]", "_").replace(".?", "")
    return text.replace("\\", "").split("|")[0]


def _public_files(
    task: str, stock: dict[str, Any], source: Path, paths: list[Path], root: Path
) -> tuple[dict[str, Path], str]:
    layout = layout_of(task)
    found: dict[str, Path] = {}
    notes: list[str] = []
    if layout is None:
        return found, ""
    refused = []
    for split, patterns in layout.splits.items():
        for path in _candidates(layout, patterns, stock, source, paths):
            rows = read_rows(path, layout.header)
            if layout.labels:
                rows = _with_labels(path, rows)
            reader = next((r for r in layout.readers if set(r.columns) <= rows[0].keys()), None)
            if reader is None or reader.refuse:
                refused.append(f"{path} cannot serve it: {reader.refuse if reader else _columns(rows, layout)}")
                continue
            converted = _converted(path, rows, reader.convert, layout.select.get(split))
            _check_texts(path, converted, layout)
            found[split] = _write(task, split, path, converted, root)
            if reader.note and "<unk>" in json.dumps(rows[:50]):
                notes.append(f"{path.name}: {reader.note}")
            break
    scored = _evaluated_split(stock)
    if refused and scored not in found:
        raise EvalUsageError("; ".join(refused) + f"; {_missing(task, stock, scored)}")
    return found, "; ".join(dict.fromkeys(notes))


def _candidates(
    layout: Layout, patterns: Sequence[str], stock: dict[str, Any], source: Path, paths: list[Path]
) -> list[Path]:
    """Files whose name fits, below a folder (the user's own may be it) whose name fits; the shallowest first."""

    def fits(path: Path) -> bool:
        place = f"{source.name}/{path.relative_to(source)}".lower()
        named = any(re.fullmatch(_fill(pattern, stock), path.name.lower()) for pattern in patterns)
        return named and re.search(layout.folder, place) is not None

    return [path for path in paths if fits(path)]


def _columns(rows: list[Row], layout: Layout) -> str:
    forms = " or ".join(", ".join(reader.columns) for reader in layout.readers if not reader.refuse)
    return f"its columns are {', '.join(rows[0])}; expected {forms}"


def _with_labels(path: Path, rows: list[Row]) -> list[Row]:
    beside = path.with_name(f"{path.stem}-labels.lst")
    if "label" in rows[0] or not beside.is_file():
        return rows
    try:
        labels = read_text(beside).split()
    except NotText as error:
        raise EvalUsageError(f"{beside}: {error}") from None
    if len(labels) != len(rows):
        raise EvalUsageError(f"{beside}: {len(labels)} labels for {len(rows)} rows of {path.name}")
    return [{**row, "label": int(label)} for row, label in zip(rows, labels, strict=True)]


def _converted(path: Path, rows: list[Row], convert: Any, select: tuple[str, range] | None) -> list[Row]:
    converted = []
    for number, row in enumerate(rows, start=1):
        if select and row[select[0]] not in select[1]:
            continue
        try:
            converted.append(convert(row))
        except (ValueError, KeyError, TypeError) as error:
            raise EvalUsageError(f"{path}, row {number}: {error}") from error
    return converted


def _check_texts(path: Path, rows: list[Row], layout: Layout) -> None:
    """Refuse a column that a prompt or an answer is made of and that is not text."""
    for number, row in enumerate(rows, start=1):
        try:
            for column in layout.texts:
                for part in _parts(row[column], column in LISTS):
                    text(part)
        except NotText as error:
            raise EvalUsageError(f"{path}, row {number}: {column} {error}") from None


def _parts(value: Any, listed: bool) -> list[Any]:
    """The texts in a column: itself, or the items of a list, or of the list under `text`."""
    found = value.get("text") if listed and isinstance(value, dict) else value
    return list(found) if listed and isinstance(found, list) else [found]


def _write(task: str, split: str, path: Path, rows: list[Row], root: Path) -> Path:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    # Named by content: the data library keeps a copy per file name, which must never be another content's.
    digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    target = root / "rows" / f"{task}-{split}-{digest}.jsonl"
    if not target.is_file():
        write_exact(target, text)
    return target


def _plain_files(task: str, stock: dict[str, Any], source: Path) -> dict[str, Path]:
    names = ("training_split", "validation_split", "test_split", "fewshot_split")
    found = {}
    layout = layout_of(task)
    for split in {str(stock[name]) for name in names if stock.get(name)}:
        beside = {path.name.lower(): path for path in sorted((source / task).glob("*")) if path.is_file()}
        path = next((beside[name] for suffix in SUFFIXES if (name := f"{split}{suffix}".lower()) in beside), None)
        if path is not None:
            if layout is not None:
                _check_texts(path, [row for row in read_rows(path) if layout.texts <= row.keys()], layout)
            found[split] = path
    scored = _evaluated_split(stock)
    if scored not in found:
        raise EvalUsageError(_missing(task, stock, scored))
    return found
