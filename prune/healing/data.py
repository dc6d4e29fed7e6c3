"""Domains -> a held-out split and an ordered training set whose mixture follows the domain weights.

The order is decided here, once, from the seed: Trainer reads the rows one after another, so a resumed run sees the
same batches. Weights are shares of **predicted tokens** (each draw goes to the domain that lags most behind its
share), because those are what the loss averages over. A token is predicted from `Document.answer_start` on; padding
and prompts never are.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from prune.data.domains import Document, Domain, check_weights
from prune.errors import PruneError

IGNORED = -100  # transformers' label of a token that is not predicted


@dataclass(frozen=True)
class Split:
    """Documents cut to max_length, per domain in the order of the mapping."""

    training: dict[str, tuple[Document, ...]]
    held_out: dict[str, tuple[Document, ...]]
    weights: dict[str, float]  # sum to 1


def split_domains(
    domains: Mapping[str, Domain],
    domain_weights: Mapping[str, float] | None = None,
    *,
    max_length: int,
    eval_fraction: float,
    eval_max_documents: int,
    seed: int,
) -> Split:
    """Hold out a seeded share of each domain and normalise the weights (equal ones if none are given).

    Answers to one prompt stay on one side: a model that has seen some of them would not be judged on the others.

    Raises:
        UsageError: a weight names no domain, is negative, or all are zero.
        PruneError: no data, or a domain with fewer than two documents that have a token to predict.
    """
    if not domains:
        raise PruneError("healing has no training data: give --data NAME=PATH, for example general=stories.txt")
    weights = check_weights(domain_weights, list(domains))
    training, held_out = {}, {}
    for name, domain in domains.items():
        documents = documents_within(domain, max_length)
        if len(documents) < 2:
            raise PruneError(
                f"--data {name}: {len(documents)} of {len(domain.documents)} documents can be trained on (a token to "
                f"predict within max_length {max_length}); healing needs two, one to train on and one held out"
            )
        order = random.Random(f"{seed}/held-out/{name}").sample(range(len(documents)), len(documents))
        count = min(len(documents) - 1, max(1, round(eval_fraction * len(documents))))
        chosen = _with_their_like(documents, order, count)
        held_out[name] = tuple(documents[i] for i in sorted(chosen)[:eval_max_documents])
        training[name] = tuple(document for i, document in enumerate(documents) if i not in chosen)
    return Split(training, held_out, {name: weight / sum(weights.values()) for name, weight in weights.items()})


def _with_their_like(documents: Sequence[Document], order: Sequence[int], count: int) -> set[int]:
    """The first `count` of `order`, each with every document that answers its prompt (or, of texts, is the same).

    Something is left always; where all answer one prompt, nothing can be kept apart and exactly `count` are taken.
    """
    like: dict[tuple[int, ...], list[int]] = {}
    for i in order:
        start = documents[i].answer_start
        like.setdefault(documents[i].input_ids[: start if start > 1 else None], []).append(i)
    if len(like) == 1:
        return set(order[:count])
    chosen: set[int] = set()
    for group in list(like.values())[:-1]:
        if len(chosen) >= count:
            break
        chosen.update(group)
    return chosen


def documents_within(domain: Domain, max_length: int) -> tuple[Document, ...]:
    """The domain's documents cut to max_length, without those that have no token to predict then."""
    return tuple(
        replace(d, input_ids=d.input_ids[:max_length])
        for d in domain.documents
        if d.answer_start < min(len(d.input_ids), max_length)
    )


def weighted_stream(split: Split, seed: int) -> Iterator[tuple[str, int]]:
    """Endless (domain, position in its training documents): shuffled passes, mixed by predicted-token share."""
    passes = {
        name: _passes(len(split.training[name]), f"{seed}/order/{name}") for name, w in split.weights.items() if w
    }
    drawn = dict.fromkeys(passes, 0)
    while True:
        name = min(passes, key=lambda n: drawn[n] / split.weights[n])
        position = next(passes[name])
        document = split.training[name][position]
        drawn[name] += len(document.input_ids) - document.answer_start
        yield name, position


def _passes(count: int, seed: str) -> Iterator[int]:
    generator = random.Random(seed)
    while True:
        yield from generator.sample(range(count), count)


class TrainingSet(torch.utils.data.Dataset[list[Document]]):
    """Rows in training order; each row is a list of documents (one, when not packed).

    Packing is first-fit over the rows of one optimiser step: a document that fits into none of them opens the next.
    """

    def __init__(self, split: Split, *, rows: int, step: int, max_length: int, packing: bool, seed: int) -> None:
        self.split = split
        self.rows: list[list[tuple[str, int]]] = []
        stream = weighted_stream(split, seed)
        if not packing:
            self.rows = [[next(stream)] for _ in range(rows)]
            return
        waiting = next(stream)
        while len(self.rows) < rows:
            batch: list[list[tuple[str, int]]] = [[] for _ in range(step)]
            room = [max_length] * step
            while (row := next((r for r in range(step) if room[r] >= self._length(waiting)), None)) is not None:
                batch[row].append(waiting)
                room[row] -= self._length(waiting)
                waiting = next(stream)
            self.rows += batch

    def _length(self, draw: tuple[str, int]) -> int:
        return len(self.split.training[draw[0]][draw[1]].input_ids)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> list[Document]:
        return [self.split.training[name][position] for name, position in self.rows[index]]

    def tokens(self, rows: int) -> int:
        """Real tokens in the first so many rows."""
        return sum(self._length(draw) for row in self.rows[:rows] for draw in row)

    def describe(self, begin: int, end: int) -> str:
        """The documents of some rows, for messages: `math documents 3, 17; general documents 0`."""
        found: dict[str, list[int]] = {}
        for row in self.rows[begin:end]:
            for name, position in row:
                found.setdefault(name, []).append(position)
        return "; ".join(f"{name} documents {', '.join(map(str, sorted(p)))}" for name, p in found.items())


@dataclass(frozen=True)
class Collator:
    """Rows -> tensors: `input_ids`, `labels` ([B, T], IGNORED where nothing is predicted), and either `position_ids`
    that restart at 0 in every document (packed; transformers derives a block-diagonal mask from them) or an
    `attention_mask` of the right-padding (not packed). `taught` adds what a
    teacher said of the rows' documents, in their order."""

    pad_token_id: int
    packing: bool
    taught: Callable[[Sequence[Document]], Mapping[str, torch.Tensor]] | None = None

    def __call__(self, rows: Sequence[Sequence[Document]]) -> dict[str, torch.Tensor]:
        length = max(sum(len(d.input_ids) for d in row) for row in rows)
        input_ids = torch.full((len(rows), length), self.pad_token_id)  # [B, T]
        labels = torch.full_like(input_ids, IGNORED)  # [B, T]
        position_ids = torch.zeros_like(input_ids)  # [B, T]
        attention_mask = torch.zeros_like(input_ids)  # [B, T]
        for i, row in enumerate(rows):
            begin = 0
            for document in row:
                end, first = begin + len(document.input_ids), begin + max(1, document.answer_start)
                ids = torch.tensor(document.input_ids)  # [length of the document]
                input_ids[i, begin:end] = ids
                labels[i, first:end] = ids[max(1, document.answer_start) :]
                position_ids[i, begin:end] = torch.arange(end - begin)
                begin = end
            attention_mask[i, :begin] = 1
            position_ids[i, begin:] = torch.arange(length - begin)
        mask = {"position_ids": position_ids} if self.packing else {"attention_mask": attention_mask}
        taught = {} if self.taught is None else self.taught([d for row in rows for d in row])
        return {"input_ids": input_ids, "labels": labels, **mask, **taught}
