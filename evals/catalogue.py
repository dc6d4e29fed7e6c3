"""Where task definitions lie, lm-eval's and ours, without building its index, which takes a quarter of a minute.

Assumption: a task's YAML file has its name in a line of its own, `task: NAME`. Groups and tags have no such file: for
them, and for a name defined twice, the index is asked.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

OURS = Path(__file__).parent / "task_files"


@functools.cache
def _definitions() -> dict[str, list[Path]]:
    from importlib.util import find_spec

    found = find_spec("lm_eval")
    assert found is not None
    assert found.origin is not None
    named: dict[str, list[Path]] = {}
    theirs = (Path(found.origin).parent / "tasks").rglob("*.yaml")
    for path in [*sorted(theirs), *sorted(OURS.glob("*.yaml"))]:
        head = path.read_text(encoding="utf8")
        match = re.search(r"""^["']?task["']?:[ \t]*["']?([\w.+-]+)["']?[ \t]*(?:#.*)?$""", head, re.MULTILINE)
        if match:
            named.setdefault(match[1], []).append(path)
    return named


def definition_of(task: str) -> Path | None:
    """The YAML file of one of lm-eval's tasks or ours; None where the name is a group, a tag, unknown or ambiguous."""
    paths = _definitions().get(task, [])
    return paths[0] if len(paths) == 1 else None


def definition(path: Path) -> dict[str, Any]:
    """A task's settings with those it includes; functions stay what the file calls them, nothing is run."""
    from lm_eval.tasks._yaml_loader import load_yaml

    return dict(load_yaml(path, resolve_func=False))
