"""An exported directory that older programs read: both dialects in config.json, a tokenizer class that all know.

transformers 5 writes `TokenizersBackend` where 4.x looks for `PreTrainedTokenizerFast`; both versions load the latter
from tokenizer.json. Nothing that stands there with another meaning is changed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prune.checkpoint.dialects import in_both_dialects
from prune.checkpoint.directory import CONFIG, read_config, read_json
from prune.files import write_exact_json

TOKENIZER = "tokenizer_config.json"
NEW_CLASS, KNOWN_CLASS = "TokenizersBackend", "PreTrainedTokenizerFast"


def make_compatible(directory: Path) -> dict[str, Any]:
    """Add what older readers look for to a directory that is being written.

    Returns:
        What was changed, for the manifest; empty where nothing was.
    """
    done: dict[str, Any] = {}
    config, added = in_both_dialects(read_config(directory))
    if added:
        write_exact_json(directory / CONFIG, config)
        done["config_keys_added"] = added
    path = directory / TOKENIZER
    if path.is_file() and (directory / "tokenizer.json").is_file():
        values = read_json(path)
        if isinstance(values, dict) and values.get("tokenizer_class") == NEW_CLASS:
            write_exact_json(
                path, {k: v for k, v in values.items() if k != "backend"} | {"tokenizer_class": KNOWN_CLASS}
            )
            done["tokenizer_class"] = KNOWN_CLASS
    return done
