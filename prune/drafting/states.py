"""The original's residual streams on documents, computed once and kept in files that are mapped into memory.

For every document the stream behind each candidate's trunk, which is where its draft enters, and the stream after the
last layer, from which the original's own head gives what it would say. Resumable: a killed run goes on at the batch
after the last one that it wrote down.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from evals.progress import stage
from prune.drafting.network import Network
from prune.errors import PruneError
from prune.files import read_sealed, sha256_json, write_sealed

PROGRESS = "progress.json"
BATCHES_PER_RECORD = 10


@dataclass(frozen=True)
class Row:
    """A prompt with an answer.

    Attributes:
        input_ids: of both.
        answer_start: tokens of the prompt.
    """

    domain: str
    input_ids: tuple[int, ...]
    answer_start: int


@dataclass(frozen=True)
class Batch:
    """B rows of T tokens, right-padded.

    Attributes:
        ids: [B, T].
        asked: [B, T], positions at which a token of the answer is predicted.
        streams: depth -> [B, T, d].
    """

    ids: torch.Tensor
    asked: torch.Tensor
    streams: dict[int, torch.Tensor]


class States:
    """Streams of all rows, [N, d] for each depth, N the tokens of all rows one after the other.

    Attributes:
        rows: the documents.
        last: the depth of the original.
    """

    def __init__(self, rows: Sequence[Row], last: int, streams: dict[int, torch.Tensor], device: torch.device) -> None:
        self.rows, self.last, self._streams, self._device = list(rows), last, streams, device
        self._offsets = [0]
        for row in rows:
            self._offsets.append(self._offsets[-1] + len(row.input_ids))

    def batch(self, members: Sequence[int], depth: int) -> Batch:
        """Some rows, with the streams at `depth` and after the last layer."""
        rows = [self.rows[i] for i in members]
        longest = max(len(row.input_ids) for row in rows)
        ids = torch.zeros(len(rows), longest, dtype=torch.long)  # [B, T]
        asked = torch.zeros(len(rows), longest, dtype=torch.bool)  # [B, T]
        for i, row in enumerate(rows):
            ids[i, : len(row.input_ids)] = torch.tensor(row.input_ids)
            asked[i, row.answer_start - 1 : len(row.input_ids) - 1] = True
        streams = {}
        for name in (depth, self.last):
            kept = self._streams[name]
            padded = torch.zeros(len(rows), longest, kept.shape[1], dtype=kept.dtype)  # [B, T, d]
            for i, member in enumerate(members):
                padded[i, : len(rows[i].input_ids)] = kept[self._offsets[member] : self._offsets[member + 1]]
            streams[name] = padded.to(self._device)
        return Batch(ids.to(self._device), asked.to(self._device), streams)

    def batches(self, tokens: int) -> list[list[int]]:
        """Rows of similar length together, at most `tokens` of them with padding (one row at least)."""
        order = sorted(range(len(self.rows)), key=lambda i: (len(self.rows[i].input_ids), i))
        found: list[list[int]] = [[]]
        for index in order:
            if found[-1] and (len(found[-1]) + 1) * len(self.rows[index].input_ids) > tokens:
                found.append([])
            found[-1].append(index)
        return found


@torch.no_grad()
def record_states(
    original: Network,
    rows: Sequence[Row],
    trunks: Sequence[int],
    directory: Path,
    *,
    identity: str,
    tokens: int,
    below: Network | None = None,
) -> States:
    """Run the original over all rows, or find what an earlier run kept.

    Args:
        trunks: depths at which drafts enter.
        directory: of this set of rows; made anew where it is of others.
        identity: hash of the original.
        tokens: of a batch, padding included.
        below: gives the streams behind the trunks, where drafts have other weights there; `original` if None.

    Raises:
        PruneError: the disk has no room for them.
    """
    last = original.anatomy.num_layers
    depths = sorted({*trunks, last})
    total = sum(len(row.input_ids) for row in rows)
    weight = original.anatomy.embedding.weight
    width, dtype = int(weight.shape[1]), weight.dtype
    key = sha256_json([identity, str(dtype), depths, tokens, [(row.input_ids, row.answer_start) for row in rows]])
    done = _batches_done(directory, key)
    if not done:
        _make_room(directory, len(depths) * total * width * dtype.itemsize)
    streams = {
        depth: torch.from_file(
            str(directory / f"{depth}.bin"), shared=True, size=total * width, dtype=dtype
        ).view(total, width)
        for depth in depths
    }  # fmt: skip
    states = States(rows, last, streams, original.device)
    groups = states.batches(tokens)
    if done == len(groups):
        return states
    with stage("states", len(groups), "batches", done=done) as going:
        for number in range(done, len(groups)):
            members = groups[number]
            ids = states.batch(members, last).ids
            found = original.streams(ids, depths)
            if below is not None:
                found |= below.streams(ids, trunks)
            for depth, kept in streams.items():
                for i, member in enumerate(members):
                    length = len(rows[member].input_ids)
                    begin = states._offsets[member]
                    kept[begin : begin + length] = found[depth][i, :length].to("cpu")
            going.advance()
            if (number + 1) % BATCHES_PER_RECORD == 0 or number + 1 == len(groups):
                _write_down(directory, depths, {"key": key, "batches": number + 1})
    return states


def _batches_done(directory: Path, key: str) -> int:
    try:
        record = read_sealed(directory / PROGRESS)
        return int(record["batches"]) if record["key"] == key else 0
    except (OSError, ValueError, KeyError):
        return 0


def _write_down(directory: Path, depths: Sequence[int], record: dict[str, Any]) -> None:
    """The record of what is done, once that is on the disk."""
    for depth in depths:
        descriptor = os.open(directory / f"{depth}.bin", os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    write_sealed(directory / PROGRESS, record)


def _make_room(directory: Path, needed: int) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise PruneError(
            f"{directory}: the streams take {math.ceil(needed / 1e6)} MB, {free // 10**6} MB are free: give fewer "
            "--train_prompts, or -o on a larger disk"
        )
