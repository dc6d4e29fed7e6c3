"""Reading a checkpoint directory as untrusted input: config, index, shard headers, and which other files travel along.

Nothing outside the directory is ever opened: file names in an index must be plain names, and a symbolic link may only
lead back into the directory or into the blob store of the same hub cache, unless the user allows others. The index and
the shards must agree tensor by tensor. Only headers are read; tensor bytes stay on disk, and no code of the checkpoint
is run.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prune.checkpoint.config_types import check_types
from prune.checkpoint.headers import Entry, Header, parse_json, read_header, refuse_pointer
from prune.errors import PruneError, UsageError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
CONFIG = "config.json"
CUT_RECORD = "prune_cut.json"
MAX_JSON_BYTES = 512 << 20
WEIGHT_SUFFIXES = (
    ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".onnx", ".tflite", ".ot", ".pkl",
    ".npz", ".nemo", ".index.json",
)  # fmt: skip

READ_FOLDERS = ("additional_chat_templates", "custom_generate")
"""Folders below a checkpoint that transformers reads, beside those of a processor's further tokenizers."""
TOKENIZER_CONFIGS = ("tokenizer_config.json", "preprocessor_config.json", "processor_config.json")
"""One of these in a folder shows that it is a processor's."""
OTHER_FOLDERS = ("adapters", "original", "onnx", "openvino", "coreml", "gguf", "runs", "assets", "figures", "images")
"""Folders of other formats, pictures and logs, and of adapters, which follow by themselves."""


@dataclass(frozen=True)
class Tensor:
    """A tensor and the file that holds it."""

    path: Path
    entry: Entry


@dataclass(frozen=True)
class Checkpoint:
    """A checked checkpoint directory.

    Attributes:
        directory: where it is.
        config: config.json as it stands.
        tensors: by name, in shard and file order.
        headers: of each weight file, by file name.
        index_metadata: `metadata` of the index; empty for a single file.
        companions: other files (tokenizer, template, licence ...) that travel along: name, or folder/name -> real path.
        left_behind: folders that do not, though it is not known what is in them.
    """

    directory: Path
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    headers: dict[str, Header]
    index_metadata: dict[str, Any]
    companions: dict[str, Path]
    left_behind: tuple[str, ...] = ()


def read_checkpoint(directory: Path, *, allow_links: bool = False) -> Checkpoint:
    """Read and cross-check a checkpoint directory.

    Args:
        directory: of the checkpoint.
        allow_links: its files may be links to somewhere else, as in stores that keep every file once.

    Raises:
        UsageError: no such directory, or no config.json in it.
        PruneError: no safetensors weights, or anything inconsistent or unsafe (file and name given).
    """
    if not directory.is_dir():
        raise UsageError(f"{directory}: no such model directory")
    if not (directory / CONFIG).exists():
        raise UsageError(f"{directory}: no {CONFIG} there; give the directory of a transformers checkpoint")
    config = read_config(directory, allow_links)
    weight_map, metadata = _weight_map(directory, allow_links)
    names = _shard_names(directory, weight_map)
    headers = {name: read_header(inside(directory, name, allow_links)) for name in names}
    tensors = _collect(directory, headers)
    if weight_map is not None:
        _compare(directory / INDEX, weight_map, tensors)
    if not tensors:
        raise PruneError(f"{directory}: its weight files hold no tensor")
    return Checkpoint(directory, config, tensors, headers, metadata, *_companions(directory, allow_links))


def read_config(directory: Path, allow_links: bool = False) -> dict[str, Any]:
    """config.json of a checkpoint, its types and ranges checked.

    Raises:
        PruneError: unreadable, no JSON object, or a field of the wrong type or out of range (named).
    """
    config = read_json(inside(directory, CONFIG, allow_links))
    if not isinstance(config, dict):
        raise PruneError(f"{directory / CONFIG}: must hold a JSON object")
    check_types(config)
    return config


def inside(directory: Path, name: str, allow_links: bool = False, checkpoint: Path | None = None) -> Path:
    """The path of a plain file name in the directory, after following links.

    Args:
        directory: a checkpoint, or a folder in one.
        name: of the file.
        allow_links: the file may be a link to anywhere.
        checkpoint: that the folder lies in, which links may not leave.

    Raises:
        PruneError: the name has a path in it, is missing, is not a regular file, or links out of the directory.
    """
    if not name or name in (".", "..") or any(mark in name for mark in "/\\:\0"):
        raise PruneError(f"{directory}: file name {name!r} is not a plain name; paths in an index are refused")
    try:
        path = (directory / name).resolve()
        root = (checkpoint or directory).resolve()
        allowed = (
            allow_links or path.is_relative_to(root) or any(path.is_relative_to(store) for store in _blob_stores(root))
        )
        exists, regular = path.exists(), path.is_file()
    except (OSError, RuntimeError, ValueError) as error:
        raise PruneError(f"{directory}: {name[:80]!r} cannot be opened: {error}") from None
    if not allowed:
        raise PruneError(
            f"{directory / name}: links to {path}, outside the checkpoint; copy the file into it, or give --allow_links"
            " if you trust where its links lead"
        )
    if not exists:
        raise PruneError(f"{directory / name}: missing; download the checkpoint again")
    if not regular:
        raise PruneError(f"{directory / name}: is not a regular file")
    return path


def is_weight_file(name: str) -> bool:
    """Whether a file of a checkpoint directory holds or indexes weights, in whatever format."""
    return name.lower().endswith(WEIGHT_SUFFIXES)


def read_json(path: Path) -> Any:
    """A JSON file of bounded size with unique keys.

    Raises:
        PruneError: unreadable, too large, not JSON, or a key that occurs twice.
    """
    refuse_pointer(path)
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise PruneError(f"{path}: over {MAX_JSON_BYTES} bytes of JSON")
        raw = path.read_bytes()
    except OSError as error:
        raise PruneError(f"{path}: cannot be read: {error.strerror}") from None
    return parse_json(raw, str(path))


def _blob_stores(root: Path) -> list[Path]:
    """Where files of a hub snapshot may link to: `models--X/blobs` for `models--X/snapshots/REVISION`."""
    if root.parent.name == "snapshots" and root.parent.parent.name.startswith("models--"):
        return [root.parent.parent / "blobs"]
    return []


def _weight_map(directory: Path, allow_links: bool) -> tuple[dict[str, str] | None, dict[str, Any]]:
    """The index's tensor -> file table (None for a single-file checkpoint) and its metadata."""
    if not (directory / INDEX).exists() and not (directory / INDEX).is_symlink():
        return None, {}
    index = read_json(inside(directory, INDEX, allow_links))
    table = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(table, dict) or not all(isinstance(value, str) for value in table.values()):
        raise PruneError(f"{directory / INDEX}: weight_map must map tensor names to file names")
    metadata = index.get("metadata") or {}
    if not isinstance(metadata, dict):
        raise PruneError(f"{directory / INDEX}: metadata must be a JSON object")
    for value in set(table.values()):
        if not value.endswith(".safetensors"):
            raise PruneError(f"{directory / INDEX}: {value!r} is no .safetensors file")
    if SINGLE not in table.values() and (directory / SINGLE).exists():
        raise PruneError(
            f"{directory / SINGLE}: stands beside {INDEX} without being listed in it, and would be loaded in its"
            " place; remove whichever is stale"
        )
    return table, metadata


def _shard_names(directory: Path, weight_map: dict[str, str] | None) -> list[str]:
    """The weight files, sorted."""
    if weight_map is not None:
        return sorted(set(weight_map.values()))
    if (directory / SINGLE).exists() or (directory / SINGLE).is_symlink():
        return [SINGLE]
    if any(directory.glob("*.safetensors")):
        raise PruneError(f"{directory}: safetensors shards without {INDEX}; download the index too")
    if any(directory.glob("*.bin")) or any(directory.glob("*.pt")) or any(directory.glob("*.pth")):
        raise PruneError(
            f"{directory}: holds pickled weights only, which can run code when read; if you trust them, load them with"
            " transformers and save_pretrained, which writes safetensors, or take a revision that has them"
        )
    raise PruneError(f"{directory}: no weights there ({SINGLE} or {INDEX})")


def _collect(directory: Path, headers: dict[str, Header]) -> dict[str, Tensor]:
    """All tensors by name; a name in two shards is refused."""
    tensors: dict[str, Tensor] = {}
    for name, header in headers.items():
        for entry in header.entries:
            if entry.name in tensors:
                other = tensors[entry.name].path.name
                raise PruneError(f"{directory / name}: tensor {entry.name!r} is also in {other}; remove one of them")
            tensors[entry.name] = Tensor(directory / name, entry)
    return tensors


def _compare(index: Path, weight_map: dict[str, str], tensors: dict[str, Tensor]) -> None:
    """Refuse an index that does not describe its shards tensor by tensor."""
    for name, file in weight_map.items():
        if name not in tensors or tensors[name].path.name != file:
            raise PruneError(f"{index}: says that {file} holds {name!r}, but it does not")
    for name, tensor in tensors.items():
        if name not in weight_map:
            raise PruneError(f"{index}: does not list {name!r}, which {tensor.path.name} holds")


def _companions(directory: Path, allow_links: bool) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Files to carry along, and folders that are left behind without being known to hold something else.

    Carried are all files but weights, config, hidden ones, the card and our own record; at the top level, and in the
    folders that transformers reads.
    """
    own = (CONFIG, INDEX, CUT_RECORD, "prune_manifest.json", "README.md")
    paths = _carried(directory, directory, allow_links, own)
    left = []
    for folder in sorted(path for path in directory.iterdir() if path.is_dir() and not path.name.startswith(".")):
        if folder.name in READ_FOLDERS or any((folder / name).exists() for name in TOKENIZER_CONFIGS):
            found = _carried(folder, directory, allow_links)
            paths |= {f"{folder.name}/{name}": path for name, path in found.items()}
        elif folder.name not in OTHER_FOLDERS:
            left.append(folder.name)
    for path in paths.values():
        refuse_pointer(path)
    return paths, tuple(left)


def _carried(folder: Path, checkpoint: Path, allow_links: bool, without: Sequence[str] = ()) -> dict[str, Path]:
    """The files of one folder of a checkpoint that are neither hidden nor weights, with their real paths."""
    names = sorted(path.name for path in folder.iterdir() if not path.is_dir())
    for name in names:
        if any("\ud800" <= character <= "\udfff" for character in name):  # how Python shows bytes that are no UTF-8
            raise PruneError(f"{folder}: the file name {os.fsencode(name)!r} is not UTF-8; rename it or remove it")
    chosen = [n for n in names if not n.startswith(".") and n not in without and not is_weight_file(n)]
    return {name: inside(folder, name, allow_links, checkpoint) for name in chosen}
