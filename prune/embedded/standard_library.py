"""Documents that lie on every machine with Python: the language reference as prose, the library's functions as code.

Which they are depends on the version of Python, so figures on them compare models, not machines.
"""

from __future__ import annotations

import ast
import importlib
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from prune.errors import PruneError

SHORTEST = 400
"""Characters of a document."""
MODULES = "argparse ast csv dataclasses difflib heapq inspect json/decoder random statistics tarfile textwrap zipfile"


def paragraphs() -> Iterator[str]:
    """Paragraphs of prose of the language reference, one a line, none twice.

    Raises:
        PruneError: this Python comes without it.
    """
    try:
        topics = importlib.import_module("pydoc_data.topics").topics
    except ImportError:
        raise PruneError("this Python lacks its language reference (pydoc_data): install the full python3") from None
    found: dict[str, None] = {}
    for topic in sorted(topics):
        for block in re.split(r"\n\s*\n", topics[topic]):
            text = " ".join(block.split())
            if len(text) >= SHORTEST and text.count(". ") >= 2:
                found.setdefault(text)
    yield from found


def functions() -> Iterator[str]:
    """Functions and methods of the standard library, with their docstrings."""
    for module in MODULES.split():
        source = (Path(sysconfig.get_path("stdlib")) / f"{module}.py").read_text(encoding="utf8")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef):
                code = ast.get_source_segment(source, node) or ""
                if len(code) >= SHORTEST:
                    yield code
