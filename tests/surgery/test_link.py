"""`--link`: unchanged weight files are reflinked, else hard-linked, else copied."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from prune.checkpoint.directory import Tensor, read_checkpoint
from prune.surgery import writer
from prune.surgery.cut import cut
from tests.faults.checkpoints import four_layers
from tests.faults.file_systems import on_another_file_system

LINKED, OTHER = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def linked_cut(root: Path, place: Path | None = None) -> tuple[Path, Path]:
    """(source, output); the layers of a.safetensors stay, one of b.safetensors goes."""
    source, out = four_layers(root / "source"), (place or root) / "out"
    cut(str(source), out, drop_layers=[3], link=True, verify=False)
    before, after = read_checkpoint(source), read_checkpoint(out)
    for name, tensor in after.tensors.items():
        assert payload(tensor) == payload(before.tensors[name]), name
    return source, out


def payload(tensor: Tensor) -> bytes:
    return tensor.path.read_bytes()[tensor.entry.begin : tensor.entry.end]


def refuse(*arguments: Any) -> None:
    raise OSError(errno.EOPNOTSUPP, "not supported")


def test_a_reflink_is_preferred_and_is_a_file_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def clone(target: int, request: int, origin: int) -> int:
        calls.append(request)
        os.write(target, os.pread(origin, 1 << 20, 0))  # what a file system with shared blocks shows
        return 0

    monkeypatch.setattr(writer.fcntl, "ioctl", clone)
    source, out = linked_cut(tmp_path)
    assert calls == [0x40049409]
    assert not os.path.samefile(out / LINKED, source / "a.safetensors")


def test_without_reflinks_a_hard_link_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer.fcntl, "ioctl", refuse)
    source, out = linked_cut(tmp_path)
    assert os.path.samefile(out / LINKED, source / "a.safetensors")
    assert (out / OTHER).stat().st_nlink == 1


def test_without_any_link_the_file_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer.fcntl, "ioctl", refuse)
    monkeypatch.setattr(os, "link", refuse)
    source, out = linked_cut(tmp_path)
    assert not os.path.samefile(out / LINKED, source / "a.safetensors")


def test_this_file_system_shares_or_copies_the_right_bytes(tmp_path: Path) -> None:
    linked_cut(tmp_path)


def test_a_target_on_another_file_system_gets_copies(tmp_path: Path) -> None:
    with on_another_file_system(tmp_path) as place:
        source, out = linked_cut(tmp_path, place)
        assert not os.path.samefile(out / LINKED, source / "a.safetensors")
        assert os.listdir(place) == ["out"]
