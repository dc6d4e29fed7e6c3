"""Text -> token ids with the special tokens that its tokenizer adds, but never one of them a second time.

Text that was rendered with a chat template, or saved by another tool, begins with the beginning-of-text token already;
the tokenizer would put its own before it, and models were not trained on two. The same holds of an end of text.
"""

from __future__ import annotations

import functools
import logging
from typing import Any

log = logging.getLogger("evals")


def text_ids(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a text, with one beginning of text and one end where text and tokenizer both have them.

    A text that bears two of them itself, or a tokenizer that adds none, is left alone.

    Args:
        tokenizer: a transformers tokenizer.
        text: as the user gave it.
    """
    ids: list[int] = tokenizer(text)["input_ids"]
    begin, end = (str(getattr(tokenizer, name, None) or "") for name in ("bos_token", "eos_token"))
    twice_begun = begin and text.startswith(begin) and ids[:2] == [tokenizer.bos_token_id] * 2
    twice_ended = end and text.endswith(end) and ids[-2:] == [tokenizer.eos_token_id] * 2
    if not (twice_begun or twice_ended):
        return ids
    bare: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    if twice_begun and ids[: len(bare) + 1] == [tokenizer.bos_token_id, *bare]:
        ids = ids[1:]
        _say(begin, "begins")
    if twice_ended and ids[-len(bare) - 1 :] == [*bare, tokenizer.eos_token_id]:
        ids = ids[:-1]
        _say(end, "ends")
    return ids


@functools.cache
def _say(token: str, where: str) -> None:
    """Once a process, or every row would say it."""
    log.warning("text that %s with %s, which the tokenizer adds itself, gets one of it, not two", where, token)
