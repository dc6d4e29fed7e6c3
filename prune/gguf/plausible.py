"""Metadata that parses and still misleads transformers, or keeps it busy for hours: refused before it reads the file.

transformers makes a Python object of every value of every array, several times, takes token ids as indices of a list
(-1 is the last token), and puts numbers into a config as they come. Assumption: the header was checked before.
"""

from __future__ import annotations

import math

from prune.errors import PruneError
from prune.gguf.header import MAX_VALUES, Array, Header
from prune.gguf.types import STRING

TOKENIZER = "tokenizer."
TOKENS = "tokenizer.ggml.tokens"
TEMPLATE = "tokenizer.chat_template"
IDS = tuple(f"tokenizer.ggml.{name}_token_id" for name in ("bos", "eos", "unknown", "padding"))
"""Those that transformers reads."""


def check_plausible(header: Header, source: str) -> None:
    """Look at every key; messages call the file `source`.

    Raises:
        PruneError: an array that no model has, a token id that is none, a chat template that is no text, or a number of
            the architecture that is not finite.
    """
    tokens = header.get(TOKENS)
    for key, field in header.fields.items():
        value, where = field.value, f"{source}: metadata key {key[:80]!r}"
        if isinstance(value, Array) and value.count > MAX_VALUES and not key.startswith(TOKENIZER):
            raise PruneError(f"{where}: an array of {value.count} values, which no model has; remove the key")
        if key == TEMPLATE and field.kind != STRING:
            raise PruneError(f"{where}: is no text; a chat template is one")
        if isinstance(value, float) and not math.isfinite(value):
            raise PruneError(f"{where}: is {value}; the file is damaged")
    for key in IDS:
        value = header.get(key, 0)
        if isinstance(tokens, Array) and not (type(value) is int and 0 <= value < tokens.count):
            raise PruneError(f"{source}: {key} is {str(value)[:40]}, and there are {tokens.count} tokens")
