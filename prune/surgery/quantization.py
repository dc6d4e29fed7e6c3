"""Layer numbers inside `quantization_config`: renumbered where they are plain names, refused where they are patterns.

Quantised tensors themselves are carried byte by byte under their layer's new number. Assumption: a layer is named by a
path component that is a number, directly after the name of the layer stack (`model.layers.3.mlp`).
"""

from __future__ import annotations

import re
from typing import Any

from prune.checkpoint.config_types import check_method
from prune.errors import PruneError

NUMBERED = re.compile(r"(?P<head>(?:^|\.)(?:layers|h|blocks|block|layer)\.)(?P<index>[0-9]{1,6})(?=\.|$)")
PATTERN = re.compile(r"(?:layers|h|blocks)(?:\\)?\.(?:\(|\[|\\d|\d+\|)")


def edit_quantization(quantization: dict[str, Any], n: int, new_index: dict[int, int]) -> None:
    """Renumber every layer name in the dictionary, in place; entries of dropped layers go.

    Raises:
        PruneError: an unknown method, or a regular expression over layer numbers.
    """
    check_method(quantization)
    for name, value in list(quantization.items()):
        quantization[name] = renumber(value, new_index, f"config.json: quantization_config.{name}")


def renumber(value: Any, new_index: dict[int, int], field: str) -> Any:
    """A list or dictionary with every layer name in it renumbered; `field` (file and field) is for the refusal."""
    if isinstance(value, list):
        pairs = [(item, _rename(item, new_index, field) if isinstance(item, str) else item) for item in value]
        return [new if isinstance(new, str) else renumber(new, new_index, field) for _, new in pairs if new is not None]
    if isinstance(value, dict):
        renamed = {_rename(key, new_index, field): item for key, item in value.items()}
        return {key: renumber(item, new_index, field) for key, item in renamed.items() if key is not None}
    return value


def _rename(text: str, new_index: dict[int, int], field: str) -> str | None:
    """A name with its layer renumbered; None when the layer is gone; unchanged when it names no layer."""
    plain = text.removeprefix("re:").removeprefix("+:").removeprefix("-:")
    plain = plain.replace("\\.", ".").lstrip("^").rstrip("$")
    if PATTERN.search(text):
        raise PruneError(f"{field}: {text!r} is a pattern over layer numbers, which cannot be renumbered")
    match = NUMBERED.search(plain)
    if match is None or "vision" in text or "visual" in text:
        return text
    old = int(match["index"])
    if old not in new_index:
        return None
    escaped = re.compile(r"((?:layers|h|blocks|block|layer)\\?\.)" + str(old) + r"(?=\\?\.|\$|$)")
    return escaped.sub(lambda found: f"{found[1]}{new_index[old]}", text, count=1)
