"""Prompts for the original model: rows of the user's files as token ids, with the tokenizer's own special tokens.

A row gives `prompt` (a `completion` beside it is not used), `messages` (rendered with the chat template, without the
answer that may end them), `input_ids` with an `answer_start` (the ids before it), or `text` (its first tokens).
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evals.text_ids import text_ids
from prune.data.domains import chat_ids
from prune.data.rows import Documents, place, read_rows
from prune.errors import PruneError
from prune.healing.settings import GenerateSettings


@dataclass(frozen=True)
class Prompt:
    """One prompt of a domain.

    Attributes:
        row: position in the file, from 0.
        input_ids: at least one token.
        difficulty: the user's number, if given.
    """

    domain: str
    row: int
    input_ids: tuple[int, ...]
    difficulty: float | None = None


def read_prompts(
    name: str, source: Documents, tokenizer: Any, settings: GenerateSettings, context: int | None
) -> tuple[list[Prompt], int]:
    """The prompts of one domain, drawn with the seed where `num_prompts` asks for fewer.

    Args:
        source: see `prune.data.rows.read_rows`.
        context: positions the model has; a prompt that leaves no room for max_new_tokens is excluded.

    Returns:
        The prompts in file order, and how many were excluded as empty or too long.

    Raises:
        UsageError: the file is missing, or a chat template is asked for and absent.
        PruneError: no rows, a row without a prompt, or nothing left.
    """
    where = place(name, source)
    rows = list(enumerate(read_rows(name, source)))
    if not rows:
        raise PruneError(f"{where}: holds no prompts")
    if settings.num_prompts is not None and settings.num_prompts < len(rows):
        keep = sorted(random.Random(f"{settings.seed}/prompts/{name}").sample(range(len(rows)), settings.num_prompts))
        rows = [rows[i] for i in keep]
    room = None if context is None else context - settings.max_new_tokens
    prompts = []
    for number, row in rows:
        ids = _prompt_ids(row, tokenizer, settings, f"{where}: row {number + 1}")
        if ids and (room is None or len(ids) <= room):
            prompts.append(Prompt(name, number, ids, row.get("difficulty")))
    if not prompts:
        raise PruneError(
            f"{where}: no prompt can be used: each is empty, or leaves no room for max_new_tokens "
            f"{settings.max_new_tokens} within the model's {context} positions"
        )
    return prompts, len(rows) - len(prompts)


def _prompt_ids(row: Mapping[str, Any], tokenizer: Any, settings: GenerateSettings, where: str) -> tuple[int, ...]:
    if "messages" in row or (settings.apply_chat_template and "prompt" in row):
        turns = row if "messages" in row else {"messages": [{"role": "user", "content": row["prompt"]}]}
        return tuple(chat_ids(turns, tokenizer, where)[0])
    if "prompt" in row:
        return tuple(text_ids(tokenizer, row["prompt"]))
    if "input_ids" in row and "answer_start" in row:
        return tuple(row["input_ids"][: int(row["answer_start"])])
    if "text" in row:
        return tuple(text_ids(tokenizer, row["text"])[: settings.prompt_tokens])
    raise PruneError(f"{where} has the columns {sorted(row)}; give prompt, messages, text, or input_ids + answer_start")
