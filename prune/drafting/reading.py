"""Prompts for a draft: the user's files read as `prune generate` reads them."""

from __future__ import annotations

from typing import Any

from prune.data.rows import Documents
from prune.drafting.settings import DraftSettings
from prune.healing.prompts import Prompt, read_prompts
from prune.healing.settings import GenerateSettings


def draft_prompts(name: str, source: Documents, tokenizer: Any, settings: DraftSettings, config: Any) -> list[Prompt]:
    """All prompts of a domain that leave room for the answer.

    Args:
        config: the original's.

    Raises:
        UsageError, PruneError: see `read_prompts`.
    """
    reading = GenerateSettings(
        max_new_tokens=settings.max_new_tokens,
        prompt_tokens=settings.prompt_tokens,
        apply_chat_template=settings.apply_chat_template,
        seed=settings.seed,
    )
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    return read_prompts(name, source, tokenizer, reading, context)[0]
