"""A name becomes one directory and one commit; what is not a checkpoint, or no longer the same one, is refused."""

from __future__ import annotations

import builtins
import errno
import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from prune.checkpoint.directory import SINGLE
from prune.checkpoint.source import EMBEDDED, Source, resolve, resolve_all
from prune.embedded import MODEL
from prune.errors import PruneError, UsageError
from tests.fake_hub import ID, NEW, OLD, make_hub
from tests.faults.checkpoints import four_layers, tensor_file


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The snapshots of a cache with two commits; opening a connection fails the test."""

    def refuse(*_: Any) -> None:
        pytest.fail("a network call was made")

    def newer(path: Path) -> None:
        four_layers(path)
        (path / "LICENSE").write_text("newer")

    snapshots = make_hub(tmp_path / "hub", {OLD: four_layers, NEW: newer})
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return snapshots


@pytest.mark.parametrize(
    ("name", "revision", "commit"),
    [
        (ID, None, NEW),
        (ID, "main", NEW),
        (ID, "v1", OLD),
        (ID, OLD, OLD),
        (f"{ID}@v1", None, OLD),
        (f"{ID}@v1", "v1", OLD),
    ],
)
def test_a_hub_id_is_the_snapshot_of_the_commit_asked_for(
    hub: Path, name: str, revision: str | None, commit: str
) -> None:
    source = resolve(name, revision=revision)
    assert (source.id, source.revision, source.directory) == (ID, commit, hub / commit)
    assert source.checkpoint.companions["LICENSE"].read_text() == {OLD: "free", NEW: "newer"}[commit]


def test_the_same_files_under_another_commit_have_another_hash(hub: Path) -> None:
    assert resolve(ID).sha256 != resolve(ID, revision=OLD).sha256


@pytest.mark.parametrize(
    ("name", "revision", "message"),
    [
        (ID, "v2", r"org/tiny@v2: cannot be downloaded: .* HF_HUB_OFFLINE is set; fetch it once with `hf download"),
        ("org/other", None, "org/other: cannot be downloaded: it is not in the local cache"),
        (f"{ID}@v1", "main", "names another revision"),
        ("org/ti ny", None, "neither a directory here nor a hub id"),
        (EMBEDDED, "v1", "only a hub id has revisions"),
        (str(MODEL), "v1", "only a hub id has revisions"),
    ],
)
def test_a_name_without_a_model_says_what_to_do(hub: Path, name: str, revision: str | None, message: str) -> None:
    with pytest.raises(PruneError, match=message):
        resolve(name, revision=revision)


def test_a_cache_that_cannot_be_written_is_read(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = str(hub.parents[1])
    real_open, real_mkdir = builtins.open, os.mkdir

    def no_write(path: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        if str(path).startswith(cache) and set(mode) & set("wax+"):
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        return real_open(path, mode, *args, **options)

    def no_mkdir(path: Any, *args: Any, **options: Any) -> None:
        if str(path).startswith(cache) and not os.path.isdir(path):
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        real_mkdir(path, *args, **options)

    monkeypatch.setattr(builtins, "open", no_write)
    monkeypatch.setattr(os, "mkdir", no_mkdir)
    assert resolve(ID, revision="v1").revision == OLD


def test_a_revision_is_of_the_hub_ids_that_name_none(hub: Path, tmp_path: Path) -> None:
    local = four_layers(tmp_path / "local")
    found = resolve_all({"a": ID, "b": f"{ID}@main", "c": str(local)}, revision="v1")
    assert [source.revision for source in found.values()] == [OLD, NEW, None]
    with pytest.raises(UsageError, match="there is no hub id for it"):
        resolve_all({"a": str(local)}, revision="v1")


def test_links_out_of_the_checkpoint_need_the_users_word(tmp_path: Path) -> None:
    source = four_layers(tmp_path / "source")
    store = tmp_path / "store"
    store.mkdir()
    for path in list(source.iterdir()):
        path.rename(store / path.name)
        path.symlink_to(store / path.name)
    with pytest.raises(PruneError, match=r"outside the checkpoint; .* allow_links"):
        resolve(source)
    assert len(resolve(source, allow_links=True).checkpoint.tensors) == 6


@pytest.mark.parametrize("name", ["a.safetensors", "config.json", "tokenizer.json", "model.safetensors.index.json"])
def test_a_git_lfs_pointer_is_called_by_its_name(tmp_path: Path, name: str) -> None:
    source = four_layers(tmp_path / "source")
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'4d' * 32}\nsize 1048576\n"
    (source / name).write_text(pointer)
    with pytest.raises(PruneError, match=rf"{name}: is a git-lfs pointer.*git lfs pull"):
        resolve(source)


def test_a_source_that_rests_is_unchanged_even_when_its_files_are_touched(tmp_path: Path) -> None:
    source = resolve(four_layers(tmp_path / "source"))
    digest = source.sha256
    source.require_unchanged()
    os.utime(source.directory / "a.safetensors")
    source.require_unchanged()  # other times, the same bytes
    assert source.sha256 == digest == resolve(source.directory).sha256


@pytest.mark.parametrize("known", [True, False])
def test_weights_that_are_replaced_are_named(tmp_path: Path, known: bool) -> None:
    source = resolve(four_layers(tmp_path / "source"))
    if known:
        assert source.sha256
    path = source.directory / "b.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    with pytest.raises(PruneError, match=r"b\.safetensors changed while it was being used"):
        source.require_unchanged()


def test_a_single_file_that_appears_beside_an_index_is_a_change(tmp_path: Path) -> None:
    source = resolve(four_layers(tmp_path / "source"))
    tensor_file(source.directory / SINGLE, ["x"])
    with pytest.raises(PruneError, match=r"model\.safetensors changed"):
        source.require_unchanged()


def test_notes_that_are_written_beside_the_files_are_no_change(tmp_path: Path) -> None:
    source = resolve(four_layers(tmp_path / "source"))
    (source.directory / "log.txt").write_text("of somebody else")
    (source.directory / "results").mkdir()
    source.require_unchanged()


def test_what_is_made_from_a_source_is_read_under_its_permissions(tmp_path: Path) -> None:
    source = resolve(four_layers(tmp_path / "source"), dtype="bfloat16", trust_remote_code=True)
    made = source.at(four_layers(tmp_path / "made"))
    assert made == Source(str(tmp_path / "made"), tmp_path / "made", None, "bfloat16", True)


def test_a_model_that_is_no_decoder_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    source = four_layers(tmp_path / "source")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"is_encoder_decoder": True}))
    with pytest.raises(PruneError, match="is_encoder_decoder"):
        resolve(source)
