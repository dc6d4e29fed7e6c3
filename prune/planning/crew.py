"""Scoring shared out: of several processes the first searches, the others score the batches that it deals them.

A batch always goes to the same process, which keeps its clean pass, and is the batch that one process alone would run;
so scores have the same bits, layer evaluations are as many, and nothing of a search needs to be kept in step: caches,
random numbers and choices are the first process's own. A round of the race that reads one batch keeps one process busy.
Assumption: every process was given the same model and documents.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

import torch

from prune.analysis.processes import Processes
from prune.errors import PruneError

T = TypeVar("T")


@dataclass(frozen=True)
class Job:
    """Subsets that lack a score on one batch.

    Attributes:
        name, number, order: domain, block of its documents, and batch in that.
        quantity: what is scored.
        keeps: the subsets, as a walk runs them.
    """

    name: str
    number: int
    order: int
    quantity: Any
    keeps: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Measured:
    """What a job gave.

    Attributes:
        documents: keys of the batch's documents.
        values: subset -> sums over the documents' counted tokens [documents].
        layers: evaluations it took.
    """

    documents: Sequence[str]
    values: Mapping[tuple[int, ...], Sequence[float]]
    layers: float


class Scorer(Protocol):
    """What scores jobs: an `evaluator.Evaluator`."""

    batch_size: int
    answers: bool

    def resize(self, batch_size: int) -> None: ...

    def place(self, name: str) -> int: ...

    def measure(self, job: Job) -> Measured: ...

    def answers_only(self) -> Scorer: ...


@dataclass(frozen=True)
class Order:
    """What the first process asks of all.

    Attributes:
        jobs: batches with the subsets to score on them.
        batch_size: documents a batch.
        answers: of the documents that have a prompt.
    """

    jobs: Sequence[Job]
    batch_size: int
    answers: bool


@dataclass(frozen=True)
class Part:
    """What one process did: of each of its jobs the place in the order and the scores, or what went wrong."""

    done: Sequence[tuple[int, Measured]]
    failure: str | None = None
    out_of_memory: bool = False


@dataclass(frozen=True)
class End:
    """The search is over: what it found, or why it failed."""

    result: object = None
    failure: str | None = None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether smaller batches would help."""
    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error)


@dataclass(frozen=True)
class Crew:
    """Processes that score together.

    Attributes:
        processes: this one and how many there are.
    """

    processes: Processes

    def measure(self, evaluator: Scorer, jobs: Sequence[Job]) -> list[Measured]:
        """The scores of all jobs, in their order; called in the first process.

        Raises:
            torch.OutOfMemoryError: memory ran out in one of the processes.
            PruneError: another process failed.
        """
        order = Order(jobs, evaluator.batch_size, evaluator.answers)
        self._tell(order)
        parts = self._gathered(self._own(evaluator, order))
        for rank, part in enumerate(parts):
            if part.out_of_memory:
                raise torch.OutOfMemoryError(part.failure)
            if part.failure is not None:
                raise PruneError(f"process {rank} of {self.processes.count} failed: {part.failure}")
        found = dict(pair for part in parts for pair in part.done)
        return [found[at] for at in range(len(jobs))]

    def assist(self, make: Callable[[], Scorer]) -> object:
        """Score what the first process deals until its search is over; its result. Called in the other processes.

        Args:
            make: the evaluator, made when the first order comes.

        Raises:
            PruneError: the search failed.
        """
        whole: Scorer | None = None
        answers: Scorer | None = None
        while not isinstance(said := self._heard(), End):
            try:
                whole = whole or make()
                if said.answers:
                    answers = answers or whole.answers_only()
                part = self._own(answers if said.answers and answers else whole, said)
            except Exception as error:  # of every kind: the first process waits for an answer
                part = Part((), f"{type(error).__name__}: {error}")
            self._gathered(part)
        if said.failure is not None:
            raise PruneError(said.failure)
        return said.result

    def end(self, result: object = None, failure: str | None = None) -> None:
        """Send the others home; called in the first process."""
        self._tell(End(result, failure))

    def _own(self, evaluator: Scorer, order: Order) -> Part:
        """This process's jobs."""
        evaluator.resize(order.batch_size)
        done = []
        try:
            for at, job in enumerate(order.jobs):
                if (job.order + job.number + evaluator.place(job.name)) % self.processes.count == self.processes.rank:
                    done.append((at, evaluator.measure(job)))
        except Exception as error:  # of every kind: the others wait for an answer
            return Part((), f"{type(error).__name__}: {error}", is_out_of_memory(error))
        return Part(done)

    def _tell(self, message: Order | End) -> None:
        from accelerate.utils import broadcast_object_list

        broadcast_object_list([message])

    def _heard(self) -> Order | End:
        from accelerate.utils import broadcast_object_list

        (message,) = broadcast_object_list([None])
        assert isinstance(message, Order | End)
        return message

    def _gathered(self, part: Part) -> list[Part]:
        from accelerate.utils import gather_object

        return list(gather_object([part]))


def together(processes: Processes, search: Callable[[Crew | None], T], assist: Callable[[Crew], object]) -> T:
    """What a search finds, in every process; the scoring is shared out where there are several.

    Args:
        processes: this one and how many there are; all call this.
        search: made in the first process; with a crew if there are others.
        assist: what the others do meanwhile: score what they are dealt until it is over.

    Raises:
        PruneError: the search failed, in another process.
    """
    if processes.count == 1:
        return search(None)
    crew = Crew(processes)
    if not processes.first:
        return cast(T, assist(crew))
    try:
        found = search(crew)
    except BaseException as error:
        crew.end(failure=str(error) or type(error).__name__)
        raise
    crew.end(found)
    return found
