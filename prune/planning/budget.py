"""How many layers go: by depth, fraction, parameters, checkpoint bytes, speed-up or a list; exactly one of them.

A count is known before the search. A size is met when the first subset on the search's way fits; layers may differ in
size, so the search is asked for every count that could.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from prune.errors import UsageError
from prune.planning.settings import BudgetSettings
from prune.planning.sizes import Sizes
from prune.planning.worth import Worth, worth_of

BUDGET_FLAGS = tuple(BudgetSettings.model_fields)


@dataclass(frozen=True)
class Budget:
    """What a plan must meet.

    Attributes:
        removals: numbers of removed layers that can meet it, ascending; the first that `fits` is taken.
        fits: removed layers -> whether the budget is met.
        worth: what each gives towards it, where they do not give alike.
    """

    removals: tuple[int, ...]
    fits: Callable[[Sequence[int]], bool]
    worth: Worth | None = None


def check_one_budget(given: Mapping[str, object]) -> str:
    """The name of the one budget that was given.

    Raises:
        UsageError: none, or several.
    """
    names = [name for name in BUDGET_FLAGS if given.get(name) is not None]
    if len(names) != 1:
        flags = ", ".join(f"--{name}" for name in (names or BUDGET_FLAGS))
        raise UsageError(f"give one budget, not {len(names)}: {flags}" if names else f"give one budget: {flags}")
    return names[0]


def check_protected(protect: Sequence[int], num_layers: int) -> frozenset[int]:
    """Protected layers as source indices; -1 is the last layer.

    Raises:
        UsageError: a layer that the model lacks.
    """
    for layer in protect:
        if not -num_layers <= layer < num_layers:
            raise UsageError(f"--protect {layer}: the model has layers 0..{num_layers - 1}")
    return frozenset(layer % num_layers for layer in protect)


def check_dropped(drop: Sequence[int], protected: frozenset[int], num_layers: int) -> tuple[int, ...]:
    """An explicit list, in the order given.

    Raises:
        UsageError: empty, a layer twice, one that the model lacks, one that is protected, or nothing left.
    """
    if not drop:
        raise UsageError("--drop_layers: name at least one layer")
    _check_list(drop, num_layers, "--drop_layers")
    if both := sorted(protected.intersection(drop)):
        raise UsageError(f"--drop_layers and --protect both name layer {both[0]}: remove it from one of them")
    if len(drop) == num_layers:
        raise UsageError(f"--drop_layers: all {num_layers} layers would go; leave at least one")
    return tuple(drop)


def check_kept(keep: Sequence[int], protected: frozenset[int], num_layers: int) -> tuple[int, ...]:
    """The layers that go when exactly `keep` stay, ascending.

    Raises:
        UsageError: empty, a layer twice, one that the model lacks, all of them, or a protected layer left out.
    """
    if not keep:
        raise UsageError("--keep_layers: name at least one layer; a model must keep one")
    _check_list(keep, num_layers, "--keep_layers")
    if missing := sorted(protected.difference(keep)):
        raise UsageError(f"--keep_layers leaves out layer {missing[0]}, which --protect names: add it, or unprotect it")
    if len(keep) == num_layers:
        raise UsageError(f"--keep_layers: all {num_layers} layers would stay; leave at least one out")
    return tuple(layer for layer in range(num_layers) if layer not in set(keep))


def _check_list(layers: Sequence[int], num_layers: int, flag: str) -> None:
    for layer in layers:
        if not 0 <= layer < num_layers:
            raise UsageError(f"{flag} {layer}: the model has layers 0..{num_layers - 1}")
    if len(set(layers)) < len(layers):
        twice = next(layer for i, layer in enumerate(layers) if layer in layers[:i])
        raise UsageError(f"{flag}: {twice} is listed twice")


def check_depth(depth: int, protected: frozenset[int], num_layers: int, flag: str) -> int:
    """The number of removed layers that leaves `depth`.

    Raises:
        UsageError: no layer left, more than the model has, or fewer than are protected.
    """
    if depth < 1:
        raise UsageError(f"{flag} {depth}: a model must keep at least one layer")
    if depth > num_layers:
        raise UsageError(f"{flag} {depth}: the model has only {num_layers} layers")
    if depth < len(protected):
        raise UsageError(f"{flag} {depth}: --protect keeps {len(protected)} layers; ask for at least so many")
    return num_layers - depth


def depth_budget(depth: int, protected: frozenset[int], num_layers: int) -> Budget:
    """`--num_layers`: so many layers remain.

    Raises:
        UsageError: as `check_depth`, or nothing to remove.
    """
    count = check_depth(depth, protected, num_layers, "--num_layers")
    if count == 0:
        raise UsageError(f"--num_layers {depth}: the model already has {num_layers} layers; ask for fewer")
    return Budget((count,), lambda removed: True)


def fraction_budget(fraction: float, protected: frozenset[int], num_layers: int) -> Budget:
    """`--drop_fraction`: this share of the layers goes, rounded to the nearest whole layer.

    Raises:
        UsageError: not between 0 and 1, or it rounds to no layer or to all that may go and more.
    """
    if not 0 < fraction < 1:
        raise UsageError(f"--drop_fraction {fraction}: give a number above 0 and below 1")
    count = int(fraction * num_layers + 0.5)
    if count == 0:
        raise UsageError(
            f"--drop_fraction {fraction}: removes none of {num_layers} layers; {_up(1 / num_layers)} removes one"
        )
    if count > (most := num_layers - max(1, len(protected))):
        why = f"--protect keeps {len(protected)} layers" if protected else "a model must keep at least one layer"
        cure = f"{most / num_layers:.3g} removes the {most} that may go" if most else "protect fewer"
        raise UsageError(f"--drop_fraction {fraction}: {why}; {cure}")
    return Budget((count,), lambda removed: True)


def _up(value: float) -> str:
    """Two digits, rounded up: what asks for at least so much."""
    digits = 1 - math.floor(math.log10(value))
    return f"{math.ceil(value * 10**digits) / 10**digits:g}"


def size_budget(target: int, sizes: Sizes, protected: frozenset[int], flag: str, what: str = "layers") -> Budget:
    """`--target_params`, `--target_bytes`, `--target_kv_bytes`: at most so many remain.

    Args:
        target: what may remain.
        sizes: of layers, or of sub-layers.
        protected: those that stay.
        flag, what: for messages: what states the target, and what goes.

    Raises:
        UsageError: already met, or beyond reach with every removable layer gone (one layer must stay).
    """
    if sizes.of(()) <= target:
        raise UsageError(f"{flag} {target}: the model already has only {sizes.of(()):,}; ask for less")
    removable = sorted(
        (size for layer, size in enumerate(sizes.layers) if layer not in protected), reverse=True
    )  # largest first
    most = len(removable) if protected else len(removable) - 1
    smallest = sizes.of(()) - sum(removable[:most])
    if smallest > target:
        raise UsageError(f"{flag} {target}: out of reach by removing {what}; {smallest:,} remain at the least")
    count, size = 0, sizes.of(())
    while size > target:
        size -= removable[count]
        count += 1
    return Budget(
        tuple(range(count, most + 1)),
        lambda removed: sizes.of(tuple(removed)) <= target,
        _worth(sizes, protected, sizes.of(()) - target),
    )


def speed_budget(target: float, read: Sizes, protected: frozenset[int], what: str = "layers") -> Budget:
    """`--target_speedup`: decoding is at least so many times as fast, as the bytes read per token predict it.

    Decoding at small batch sizes waits for memory, so its time is the weights read: every layer and the head, not the
    embedding of which one row is read. A prediction: `prune eval` and the report measure.

    Args:
        target: original time over the shallow model's time.
        read: bytes read for one token, by layer and for the rest.
        protected: those that stay.
        what: goes, for messages.

    Raises:
        UsageError: not above 1, or beyond reach with every removable layer gone.
    """
    if not 1 < target < float("inf"):
        raise UsageError(f"--target_speedup {target}: give a number above 1, such as 1.5")
    total = read.of(())
    removable = sorted((size for layer, size in enumerate(read.layers) if layer not in protected), reverse=True)
    most = len(removable) if protected else len(removable) - 1
    reach = total / max(1, total - sum(removable[:most]))
    if reach < target:
        most_said = math.floor(100 * reach) / 100
        raise UsageError(f"--target_speedup {target}: out of reach by removing {what}; {most_said:.2f} at the most")
    count = next(n for n in range(most + 1) if total >= target * (total - sum(removable[:n])))
    return Budget(
        tuple(range(count, most + 1)),
        lambda removed: total >= target * read.of(tuple(removed)),
        _worth(read, protected, total - total / target),
    )


def _worth(sizes: Sizes, protected: frozenset[int], wanted: float) -> Worth | None:
    return worth_of(sizes.layers, (unit for unit in range(len(sizes.layers)) if unit not in protected), wanted)
