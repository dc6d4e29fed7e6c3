"""The study's documents, drawn once from public files and written as JSON Lines.

Three kinds that share no text: `calibration` (what layers are chosen on), `healing` (what cuts are trained on) and
`held_out` (what everything is judged on). Text is WikiText-2 (validation for the first two, test for the last),
mathematics GSM8K's worked answers given the question (train, test), stories TinyStories, Japanese MGSM's questions,
code Python's own standard library, which lies on every machine. Whatever is drawn is drawn with `SEED`.
"""

from __future__ import annotations

import ast
import json
import random
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

SEED = 0
SHORTEST = 500  # characters of a paragraph or function: some 128 tokens
COUNTS = {
    "calibration": {"text": 24, "math": 24, "code": 24, "ja": 12},
    "healing": {"text": 300, "math": 600},
    "held_out": {"text": 20, "math": 32, "stories": 20},
}
"""Documents by kind and domain."""
MODULES = "argparse ast csv dataclasses difflib heapq inspect json/decoder random statistics tarfile textwrap zipfile"

Row = dict[str, Any]


def prepare(source: Path, target: Path) -> dict[str, dict[str, int]]:
    """Write `target/KIND/DOMAIN.jsonl`.

    Args:
        source: folder with `wikitext2`, `gsm8k`, `tinystories` and `mgsm` (and `math500`, see `write_levels`), each as
            its authors publish it.
        target: new folder.

    Returns:
        The number of documents by kind and domain.
    """
    text = _drawn(
        _paragraphs(source / "wikitext2/valid.txt"), COUNTS["calibration"]["text"] + COUNTS["healing"]["text"]
    )
    math = _drawn(_records(source / "gsm8k/train.jsonl"), COUNTS["calibration"]["math"] + COUNTS["healing"]["math"])
    kinds: dict[str, dict[str, Sequence[Row]]] = {
        "calibration": {
            "text": text[: COUNTS["calibration"]["text"]],
            "math": math[: COUNTS["calibration"]["math"]],
            "code": _drawn(_functions(), COUNTS["calibration"]["code"]),
            "ja": _drawn(_japanese(source / "mgsm/mgsm_ja.tsv"), COUNTS["calibration"]["ja"]),
        },
        "healing": {"text": text[COUNTS["calibration"]["text"] :], "math": math[COUNTS["calibration"]["math"] :]},
        "held_out": {
            "text": _drawn(_paragraphs(source / "wikitext2/test.txt"), COUNTS["held_out"]["text"]),
            "math": _drawn(_records(source / "gsm8k/test.jsonl"), COUNTS["held_out"]["math"]),
            "stories": _drawn(_stories(source / "tinystories/eval.txt"), COUNTS["held_out"]["stories"]),
        },
    }
    for kind, domains in kinds.items():
        (target / kind).mkdir(parents=True, exist_ok=True)
        for name, rows in domains.items():
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            (target / kind / f"{name}.jsonl").write_text("".join(lines), encoding="utf8")
    return {kind: {name: len(rows) for name, rows in domains.items()} for kind, domains in kinds.items()}


def write_levels(source: Path, target: Path, each: int) -> None:
    """Write as many problems of every MATH level, with their solutions; the level is a document's difficulty.

    Args:
        source: folder with `math500`, as its authors publish it.
        target: new file.
        each: problems of a level.
    """
    rows = list(_records(source / "math500/test.jsonl"))
    chosen = [row for level in range(1, 6) for row in _drawn((r for r in rows if r["level"] == level), each)]
    target.parent.mkdir(parents=True, exist_ok=True)
    lines = (
        json.dumps({"prompt": f"{r['problem']}\n", "completion": r["solution"], "difficulty": r["level"]}) + "\n"
        for r in chosen
    )
    target.write_text("".join(lines), encoding="utf8")


def _drawn(rows: Iterator[Row], count: int) -> list[Row]:
    known = list(rows)
    return random.Random(SEED).sample(known, min(count, len(known)))


def _paragraphs(file: Path) -> Iterator[Row]:
    for line in file.read_text(encoding="utf8").splitlines():
        if len(line) >= SHORTEST and not line.lstrip().startswith("="):
            yield {"text": line.strip()}


def _records(file: Path) -> Iterator[Row]:
    return (json.loads(line) for line in file.read_text(encoding="utf8").splitlines())


def _stories(file: Path) -> Iterator[Row]:
    stories = (story.strip() for story in file.read_text(encoding="utf8").split("<|endoftext|>"))
    return ({"text": story} for story in stories if len(story) >= SHORTEST)


def _japanese(file: Path) -> Iterator[Row]:
    return ({"text": line.split("\t")[0]} for line in file.read_text(encoding="utf8").splitlines())


def _functions() -> Iterator[Row]:
    """Functions and methods of the standard library, with their docstrings."""
    for module in MODULES.split():
        source = (Path(sysconfig.get_path("stdlib")) / f"{module}.py").read_text(encoding="utf8")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef):
                code = ast.get_source_segment(source, node) or ""
                if len(code) >= SHORTEST:
                    yield {"text": code}
