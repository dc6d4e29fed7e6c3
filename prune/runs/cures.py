"""Errors in the words of a run: the rooms name the flags of their commands, a recipe has keys.

A flag that `prune run` has stays as it is; one that is a key of the recipe becomes that key, with its section; where
two sections have it, both are named.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import BaseModel

from evals.errors import UserError
from prune.runs.recipe import Recipe

FLAG = re.compile(r"(`[^`]*`)|(?<![\w-])--([a-z]\w*)")
"""A flag, outside of a command in backticks."""
OWN = {"resume", "lang", "rounds", "output", "dry_run", "json", "quiet"}
OTHERWISE = {
    "resume_from_checkpoint": "--resume",
    "data": "domains",
    "num_layers": "plan.depths",
    "drop_fraction": "plan.depths",
    "suite": "eval.suites",
    "tasks": "eval.suites with the tasks",
    "teacher": "model",
    "max_shard_size": "export.max_shard_size",
    "score_cache": "-o",
}
"""Flags that a run has under another name."""


@contextmanager
def in_a_run() -> Iterator[None]:
    """Rewrite the flags in the user's own errors that leave the block."""
    try:
        yield
    except UserError as error:
        error.args = (recipe_words(error.flagged),)
        raise


def recipe_words(text: str) -> str:
    """A message with keys of the recipe in the place of flags."""

    def key(match: re.Match[str]) -> str:
        if match[1] or match[2] in OWN:
            return match[0]
        return OTHERWISE.get(match[2]) or " or ".join(_keys().get(match[2], [match[0]]))

    return FLAG.sub(key, text)


@functools.cache
def _keys() -> dict[str, list[str]]:
    """Name of an option -> its places in the recipe."""
    found: dict[str, list[str]] = {}
    for section, field in Recipe.model_fields.items():
        kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
        models = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if not models:
            found.setdefault(section, []).append(section)
        for model in models:
            for name in model.model_fields:
                found.setdefault(name, []).append(f"{section}.{name}")
    return found
