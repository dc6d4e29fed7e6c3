"""Runs of neighbouring indices: [3, 8, 9, 10] is 3 and 8 to 10."""

from __future__ import annotations

from collections.abc import Collection, Iterable


def runs(indices: Iterable[int]) -> list[tuple[int, int]]:
    """Contiguous runs of indices as (first, last), both ends included, in ascending order."""
    found: list[tuple[int, int]] = []
    for index in sorted(indices):
        if found and found[-1][1] == index - 1:
            found[-1] = (found[-1][0], index)
        else:
            found.append((index, index))
    return found


def removed_runs(keep: Collection[int], depth: int) -> list[tuple[int, int]]:
    """Runs of the layers of 0..depth-1 that are not kept, as (first, last)."""
    return runs(set(range(depth)) - set(keep))
