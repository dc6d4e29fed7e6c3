"""Several processes as one analysis: `torchrun` or `accelerate launch` starts them, accelerate joins them.

Batches are dealt out in turn, so every batch is the one that a single process would run, and its sums have the same
bits; sums of different documents are never mixed, so merged records are those of a single process (beyond
`statistics.MAX_GROUPS` documents of a domain, documents share float64 sums and the order of addition differs).
Assumption: every process is given the same arguments. An error in one process ends all of them.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from prune.errors import PruneError

if TYPE_CHECKING:
    from prune.analysis.statistics import Records

T = TypeVar("T")
PATIENCE = datetime.timedelta(days=1)  # the longest a process may wait for the slowest


@dataclass(frozen=True)
class Processes:
    """This process among `count`.

    Attributes:
        rank: 0 is the one that writes and speaks.
        count: how many there are.
        device: where this process computes; None: wherever a single process would.
    """

    rank: int = 0
    count: int = 1
    device: str | None = None

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def together(self, work: Callable[[], T]) -> T:
        """Do this process's part, then learn how the others fared.

        Raises:
            PruneError: another process failed; what `work` raised where it failed here.
        """
        if self.count == 1:
            return work()
        failure: Exception | None = None
        try:
            result = work()
        except Exception as error:  # every kind must reach the other processes, or they wait for ever
            failure = error
        from accelerate.utils import gather_object

        said = gather_object([f"{type(failure).__name__}: {failure}" if failure else None])
        if failure is not None:
            raise failure
        for rank, message in enumerate(said):
            if message is not None:
                raise PruneError(f"process {rank} of {self.count} failed: {message}")
        return result

    def deal(self, items: Iterable[T]) -> Iterator[tuple[T | None, list[T]]]:
        """Rounds of at most `count` items: (this process's item or None, all items of the round)."""
        hand: list[T] = []
        for item in items:
            hand.append(item)
            if len(hand) == self.count:
                yield hand[self.rank], hand
                hand = []
        if hand:
            yield (hand[self.rank] if self.rank < len(hand) else None), hand

    def merge(self, records: Mapping[str, Records]) -> dict[str, Records]:
        """The records of all processes, in every process: merged in the order of rank, one process's at a time."""
        if self.count == 1:
            return dict(records)
        from accelerate.utils import broadcast_object_list

        merged: dict[str, Records] = {}
        for rank in range(self.count):
            sent = [dict(records) if rank == self.rank else None]
            broadcast_object_list(sent, from_process=rank)
            part = sent[0]
            assert part is not None  # the sender's own records
            if rank == 0:
                merged = part
            else:
                for name, other in part.items():
                    merged[name].merge(other)
        return merged

    def from_first(self, value: T) -> T:
        """What the first process gives, in every process."""
        if self.count == 1:
            return value
        from accelerate.utils import broadcast_object_list

        sent = [value]
        broadcast_object_list(sent, from_process=0)
        return sent[0]

    def leave(self) -> None:
        """Close the connections; nothing may be exchanged afterwards."""
        if self.count > 1:
            from accelerate import PartialState

            PartialState().destroy_process_group()


ALONE = Processes()


def join() -> Processes:
    """The processes that a launcher started, connected; `ALONE` without a launcher.

    Raises:
        PruneError: the launcher's processes cannot be connected.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return ALONE
    import torch
    from accelerate import PartialState

    if PartialState._shared_state and not torch.distributed.is_initialized():
        return ALONE  # they have left: a second command of the same program is every process's own
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)
    if state.num_processes < 2:
        raise PruneError("WORLD_SIZE is set, but no process could be joined: start with torchrun or accelerate launch")
    device = str(state.device) if state.device.type != "cpu" else "cpu"  # accelerate says cpu:0
    return Processes(state.process_index, state.num_processes, device)
