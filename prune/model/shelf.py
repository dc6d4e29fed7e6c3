"""Activations kept for later: in memory up to a limit, the oldest on disk beyond it.

Files are written and read whole, never mapped, so what lies on disk costs no resident memory. They live in a private
directory that goes with the shelf.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch.utils import _pytree as pytree

from prune.errors import PruneError


class Shelf:
    """Values (tensors, or lists, tuples and dictionaries of them) by key.

    Attributes:
        in_memory: bytes of tensors held in memory now.
        on_disk: bytes of tensors held on disk now.
        spilled: bytes written to disk so far.
    """

    def __init__(self, limit: int, directory: Path) -> None:
        """An empty shelf.

        Args:
            limit: bytes to hold in memory.
            directory: an existing directory; the files lie in a new folder in it.
        """
        self.limit = limit
        self.in_memory = self.on_disk = 0
        self._held: OrderedDict[Hashable, Any] = OrderedDict()
        self._files: dict[Hashable, tuple[Path, int]] = {}
        self._written = 0
        self._parent = directory
        self._folder: Path | None = None

    def __enter__(self) -> Shelf:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.clear()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def put(self, key: Hashable, value: Any) -> None:
        """Keep a value; one of the same key is replaced.

        Raises:
            PruneError: the disk is full.
        """
        self.drop(key)
        self._held[key] = value
        self.in_memory += size_of(value)
        while self.in_memory > self.limit and self._held:
            self._spill(*self._held.popitem(last=False))

    def get(self, key: Hashable) -> Any:
        """The value; read from disk anew each time if it lies there."""
        if key in self._held:
            return self._held[key]
        path, _ = self._files[key]
        return torch.load(path, weights_only=False)  # written by this process, into a directory only it can enter

    def drop(self, key: Hashable) -> None:
        """Forget a value, if it is there."""
        if key in self._held:
            self.in_memory -= size_of(self._held.pop(key))
        if key in self._files:
            path, size = self._files.pop(key)
            path.unlink()
            self.on_disk -= size

    def _spill(self, key: Hashable, value: Any) -> None:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix=".activations-", dir=self._parent))
        path, size = self._folder / str(self._written), size_of(value)
        self._written += 1
        try:
            torch.save(pytree.tree_map_only(torch.Tensor, _compact, value), path)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
            free = shutil.disk_usage(self._folder).free
            raise PruneError(
                f"{self._parent}: activations do not fit ({free / 1e9:.1f} GB free): {str(error).splitlines()[0]}; "
                "use fewer or shorter documents, another -o disk, or a larger --stream_memory"
            ) from error
        self._files[key] = (path, size)
        self.in_memory -= size
        self.on_disk += size


class ShelvedTensors(Sequence[torch.Tensor]):
    """Tensors on a shelf as a sequence that loads each when it is asked for, on a device."""

    def __init__(self, shelf: Shelf, keys: Sequence[Hashable], device: torch.device) -> None:
        self._shelf, self._keys, self._device = shelf, keys, device

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return ShelvedTensors(self._shelf, self._keys[index], self._device)
        return self._shelf.get(self._keys[index]).to(self._device)

    def __iter__(self) -> Iterator[torch.Tensor]:
        return (self[index] for index in range(len(self)))


def size_of(value: Any) -> int:
    """Bytes of the distinct tensors in a value."""
    tensors = {id(leaf): leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor)}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def _compact(tensor: torch.Tensor) -> torch.Tensor:
    """A view of a larger storage as a tensor of its own, so that only its own bytes are written."""
    whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor if whole else tensor.clone()
