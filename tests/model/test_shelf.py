"""The shelf keeps what it was given, within its limit of memory, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from prune.errors import PruneError
from prune.model.shelf import Shelf, ShelvedTensors, size_of

KILO = 256  # float32 elements of a KiB


def test_the_oldest_go_to_disk_and_come_back(tmp_path: Path) -> None:
    with Shelf(2048, tmp_path) as shelf:
        values = [torch.full((KILO,), float(i)) for i in range(4)]
        for number, value in enumerate(values):
            shelf.put(number, value)
        assert (shelf.in_memory, shelf.on_disk) == (2048, 2048)
        assert all(torch.equal(shelf.get(i), value) for i, value in enumerate(values))
        assert shelf.get(3) is values[3]  # in memory: no copy
        tensors = ShelvedTensors(shelf, range(4), torch.device("cpu"))
        assert [float(tensor[0]) for tensor in tensors] == [0, 1, 2, 3]
        assert float(tensors[-1][0]) == 3
        assert len(tensors[1:]) == 3
        shelf.put(0, torch.zeros(KILO))  # replaced: its file goes, and the oldest in memory with it to disk
        assert (shelf.in_memory, shelf.on_disk) == (2048, 2048)
        assert len(list(next(tmp_path.iterdir()).iterdir())) == 2
        for number in range(4):
            shelf.drop(number)
        assert (shelf.in_memory, shelf.on_disk) == (0, 0)
    assert not list(tmp_path.iterdir())


def test_shared_tensors_count_and_lie_once(tmp_path: Path) -> None:
    mask = torch.ones(KILO)
    calls = [((None, mask), {"rotary": (mask, mask), "use_cache": False, "past": None}) for _ in range(5)]
    assert size_of(calls) == 1024
    with Shelf(0, tmp_path) as shelf:
        shelf.put("calls", calls)
        back = shelf.get("calls")
        assert back[4][1]["use_cache"] is False
        assert torch.equal(back[4][1]["rotary"][1], mask)
        assert sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()) < 4096
        shelf.put("view", torch.zeros(1000, KILO)[3])  # only the view's own bytes are written
        assert max(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()) < 4096


def test_a_full_disk_is_said_and_cleaned_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(PruneError, match=r"No space left on device.*stream_memory"), Shelf(0, tmp_path) as shelf:
        shelf.put(0, torch.zeros(KILO))
    assert not list(tmp_path.iterdir())
