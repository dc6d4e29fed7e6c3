"""A model in one GGUF file or several: the parts of a split model are found, checked against each other, and joined.

llama.cpp's `gguf-split` names parts `NAME-00001-of-0000N.gguf`; the first holds all metadata, each holds some tensors.
Assumption: what counts is what the parts say (`split.no`, `split.count`), their names only say where they lie.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from prune.errors import PruneError, UsageError
from prune.gguf.header import Field, Header, Tensor, read_header

NAME = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")
SPLIT = "split."


@dataclass(frozen=True)
class Model:
    """A checked model.

    Attributes:
        path: as given; of a split model, the first part.
        parts: headers in order.
    """

    path: Path
    parts: tuple[Header, ...]

    @property
    def first(self) -> Header:
        """The header with the metadata."""
        return self.parts[0]

    @property
    def architecture(self) -> str:
        """`general.architecture`; empty where the file says none."""
        found = self.first.get("general.architecture")
        return found if isinstance(found, str) else ""

    @property
    def fields(self) -> dict[str, Field]:
        """The metadata, without what describes the splitting."""
        return {key: field for key, field in self.first.fields.items() if not key.startswith(SPLIT)}

    @property
    def tensors(self) -> list[tuple[Path, Tensor]]:
        """Every tensor with the file that holds it, in order."""
        return [(part.path, tensor) for part in self.parts for tensor in part.tensors]


def read_model(path: Path) -> Model:
    """Read the headers of a model, all parts of it.

    Raises:
        UsageError: no such file, or a later part of a split model.
        PruneError: a damaged header, a missing part, or parts that do not belong together.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file; give a .gguf file")
    first = read_header(path)
    count = first.get("split.count", 1)
    if type(count) is not int or count < 2:
        return Model(path, (first,))
    match = NAME.fullmatch(path.name)
    if match is None or int(match[3]) != count:
        raise PruneError(f"{path}: is one of {count} parts, but not named NAME-00001-of-{count:05d}.gguf")
    if first.get("split.no") != 0 or int(match[2]) != 1:
        raise UsageError(f"{path}: is a later part; give the first, {match[1]}-00001-of-{match[3]}.gguf")
    parts = [first]
    for number in range(1, count):
        place = path.with_name(f"{match[1]}-{number + 1:05d}-of-{match[3]}.gguf")
        if not place.is_file():
            raise PruneError(f"{place}: missing; all {count} parts must lie in one directory")
        part = read_header(place)
        if part.get("split.no") != number or part.get("split.count") != count:
            raise PruneError(f"{place}: says that it is part {part.get('split.no')} of {part.get('split.count')}")
        parts.append(part)
    model = Model(path, tuple(parts))
    _check_together(model)
    return model


def _check_together(model: Model) -> None:
    owner: dict[str, Path] = {}
    for path, tensor in model.tensors:
        if tensor.name in owner:
            raise PruneError(f"{path}: tensor {tensor.name!r} is also in {owner[tensor.name].name}")
        owner[tensor.name] = path
    announced = model.first.get("split.tensors.count", len(owner))
    if announced != len(owner):
        raise PruneError(f"{model.path}: announces {announced} tensors, its parts hold {len(owner)}")
