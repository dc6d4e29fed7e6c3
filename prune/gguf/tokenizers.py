"""The tokenizer of a GGUF file, saved so that today's and older transformers load it, and compared after loading.

transformers builds it from the file's vocabulary, merges and special ids. Assumption: what `tokenizer.json` holds is
the whole of it, so that the plain fast class reads it where the class that made it is known to transformers 5 only.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from prune.errors import PruneError
from prune.files import write_exact_json
from prune.model.chat_template import check_chat_template

CONFIG = "tokenizer_config.json"
CLASSES = {"TokenizersBackend": "PreTrainedTokenizerFast"}
"""Class of transformers 5 -> the name that transformers 4 and 5 both know."""
OF_THIS_MACHINE = ("is_local", "local_files_only", "gguf_file", "name_or_path", "backend")
TEXTS = (
    "Anna has 3 red apples and 12 green ones. How many are there in all?",
    "  two spaces first,\n\n\ttabs, and\r\n1234567 + 89 = 1234656",
    "def add(a: int, b: int) -> int:\n    return a + b  # snake_case, 'quotes', \"more\"",
    "りんごは全部で何個ありますか。 Grüße, naïve café; 你好 мир 🙂👩‍👩‍👧 \u200b�",
    "",
    " ",
)


def read_tokenizer(file: Path, name: str) -> Any:
    """The tokenizer of a file whose header was checked; messages call the file `name`.

    Raises:
        PruneError: the file has none that transformers builds, or its chat template does not end.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name, local_files_only=True)
    except Exception as error:  # of many kinds, all from the file's content
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise PruneError(f"{name}: its tokenizer cannot be read: {type(error).__name__}: {reason}") from error
    check_chat_template(tokenizer, name)
    return tokenizer


def save_tokenizer(file: Path, directory: Path, name: str) -> None:
    """Write the tokenizer, and prove that loading it gives the same ids; messages call the file `name`.

    Raises:
        PruneError: the file has no tokenizer that transformers builds, its chat template does not end, or what was
            saved tokenises differently.
    """
    from transformers import AutoTokenizer

    tokenizer = read_tokenizer(file, name)
    tokenizer.save_pretrained(directory)
    settings = json.loads((directory / CONFIG).read_text(encoding="utf8"))
    kind = settings.get("tokenizer_class")
    settings = {key: value for key, value in settings.items() if key not in OF_THIS_MACHINE}
    write_exact_json(directory / CONFIG, {**settings, "tokenizer_class": CLASSES.get(kind, kind)})
    try:
        saved = AutoTokenizer.from_pretrained(str(directory), local_files_only=True)
    except Exception as error:
        raise PruneError(f"{name}: its tokenizer does not load once saved: {str(error)[:300]}") from error
    try:
        _compare(tokenizer, saved, name)
    except PruneError:
        raise
    except Exception as error:  # the Rust side raises plain ones, at a vocabulary without an unknown token for one
        raise PruneError(f"{name}: its tokenizer cannot read every text: {str(error)[:300]}") from error


def _compare(read: Any, saved: Any, source: str) -> None:
    """Vocabulary, special tokens, template, and the ids of texts with and without special tokens in them."""
    pieces = [token for token in read.all_special_tokens if token]
    texts = [*TEXTS, "".join(f"{token} a{token}b " for token in pieces)]
    for name in ("special_tokens_map", "all_special_ids", "chat_template"):
        if getattr(read, name) != getattr(saved, name):
            raise PruneError(f"{source}: the saved tokenizer has another {name}; nothing was written")
    if read.get_vocab() != saved.get_vocab():
        raise PruneError(f"{source}: the saved tokenizer has another vocabulary; nothing was written")
    for text in texts:
        ids = read(text).input_ids
        if ids != saved(text).input_ids or read.decode(ids) != saved.decode(ids):
            raise PruneError(f"{source}: the saved tokenizer reads {text[:40]!r} differently; nothing was written")
