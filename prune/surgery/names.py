"""From a tensor's name on disk to its layer, and to its name after a cut.

The first number in a name is the layer (true for all known families), but only under the prefix of the decoder stack: a
vision tower with as many layers must not be cut. Assumption: the decoder's prefix covers exactly the numbers 0..n-1,
plus multi-token-prediction layers at n and above, which are dropped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from prune.errors import PruneError
from prune.surgery.families import family_of

FIRST_NUMBER = re.compile(r"^(?P<prefix>(?:[^.\d][^.]*\.)*)(?P<index>[0-9]+)(?P<rest>\..+)$")
FOREIGN = ("vision", "visual", "audio", "image", "speech", "tower", "mtp.", "qformer")
SIDE = ("encoder.",)
"""Marks of a stack beside the decoder, unless it is the only one (CPM-Ant's decoder is called encoder)."""


def find_prefix(names: Iterable[str], n: int) -> str:
    """The name prefix of the decoder layers, such as `model.layers.`.

    Raises:
        PruneError: none covers layers 0..n-1 (weights and config disagree), or several do.
    """
    numbers: dict[str, set[int]] = {}
    for name in names:
        if match := FIRST_NUMBER.match(name):
            numbers.setdefault(match["prefix"], set()).add(int(match["index"]))
    own = {p: s for p, s in numbers.items() if not any(mark in p for mark in FOREIGN)}
    full = [prefix for prefix, found in own.items() if found >= set(range(n))]
    full = [prefix for prefix in full if not any(mark in prefix for mark in SIDE)] or full
    if not full:
        best = max(own.items(), key=lambda item: len(item[1]), default=("", set()))
        raise PruneError(
            f"config.json states {n} layers, but the weights hold {len(best[1])} (under {best[0] or 'no prefix'}*);"
            " config and weights disagree"
        )
    if len(full) > 1:
        decoders = [prefix for prefix in full if "language_model" in prefix] or full
        if len(decoders) > 1:
            shown = ", ".join(sorted(decoders))
            raise PruneError(f"several stacks have {n} layers ({shown}): cannot tell which to cut")
        full = decoders
    return full[0]


def rename_tensors(names: Iterable[str], prefix: str, n: int, new_index: dict[int, int], mtp: int) -> dict[str, str]:
    """Old name -> new name of every tensor that stays.

    Args:
        names: all tensor names on disk.
        prefix: from `find_prefix`.
        n: depth before the cut.
        new_index: old -> new layer index of the kept layers.
        mtp: multi-token-prediction layers that the config allows beyond n.

    Raises:
        PruneError: a layer at or beyond n that is no MTP layer.
    """
    renamed = {}
    for name in names:
        match = FIRST_NUMBER.match(name)
        if match is None or match["prefix"] != prefix:
            if not (mtp and name.startswith(("mtp.", "model.mtp."))):
                renamed[name] = name
            continue
        old = int(match["index"])
        if old >= n + mtp:
            raise PruneError(f"config.json states {n} layers, but the weights hold {name!r}; they disagree")
        if old in new_index:
            renamed[name] = f"{prefix}{new_index[old]}{match['rest']}"
    return renamed


def move_shared(
    renamed: dict[str, str], names: Iterable[str], prefix: str, new_index: dict[int, int], kind: str
) -> None:
    """Give a block that several layers share, and that is stored with the first of them, to the first one that stays.

    Changes `renamed` (see `rename_tensors`) in place; where the family has no `shared_block`, nothing happens.
    """
    shared = family_of(kind).shared_block
    if shared is None:
        return
    block, own = shared
    every = list(names)
    users = sorted(int(m["index"]) for m in map(FIRST_NUMBER.match, every) if m and m["rest"] == own)
    kept = [layer for layer in users if layer in new_index]
    if not kept or users[0] in new_index:
        return
    source, target = f"{prefix}{users[0]}.{block}.", f"{prefix}{new_index[kept[0]]}.{block}."
    if not any(name.startswith(target) for name in renamed.values()):  # else every layer stores its copy
        renamed |= {name: target + name.removeprefix(source) for name in every if name.startswith(source)}
