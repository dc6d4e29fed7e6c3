"""Layer lists as users write them: `20,21,24-27`, both ends of a range included."""

from __future__ import annotations

import re
from collections.abc import Sequence

from prune.errors import UsageError

RANGE = re.compile(r"(\d{1,6})(?:-(\d{1,6}))?")


def parse_layers(text: str) -> list[int]:
    """The sorted layer indices that a list such as `20,21,24-27` names; ranges include both ends.

    Raises:
        UsageError: empty, not of this form, a range that runs backwards, or an index named twice.
    """
    found: list[int] = []
    for part in text.split(","):
        match = RANGE.fullmatch(part.strip())
        if match is None:
            raise UsageError(f"layer list {text!r}: {part.strip()!r} is neither N nor N-M; write e.g. 20,21,24-27")
        first = int(match[1])
        last = int(match[2]) if match[2] else first
        if last < first:
            raise UsageError(f"layer list {text!r}: the range {part.strip()!r} runs backwards")
        found.extend(range(first, last + 1))
    if len(set(found)) != len(found):
        twice = next(index for index in found if found.count(index) > 1)
        raise UsageError(f"layer list {text!r}: layer {twice} is named twice")
    return sorted(found)


def complement(chosen: Sequence[int], depth: int, flag: str) -> list[int]:
    """The layers of 0..depth-1 that were not chosen.

    Raises:
        UsageError: nothing chosen, an index out of range or named twice, or nothing left on either side.
    """
    if not chosen:
        raise UsageError(f"{flag}: no layer is named; give indices such as 20,21,24-27")
    outside = [index for index in chosen if not 0 <= index < depth]
    if outside:
        raise UsageError(f"{flag}: layer {outside[0]} does not exist; the model has layers 0-{depth - 1}")
    if len(set(chosen)) != len(chosen):
        raise UsageError(f"{flag}: an index is named twice in {list(chosen)}")
    rest = [index for index in range(depth) if index not in set(chosen)]
    if not rest:
        raise UsageError(f"{flag}: all {depth} layers are named; at least one must go and one must stay")
    return rest
