"""Faults of checkpoints and targets: refused with a PruneError, source untouched, no output under a final name."""

from __future__ import annotations

import contextlib
import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prune.checkpoint.directory import INDEX, SINGLE, read_checkpoint
from prune.checkpoint.headers import parse_header, read_header
from prune.errors import PruneError, UsageError
from prune.files import sha256_tree
from prune.surgery.cut import cut
from tests.faults.checkpoints import CONFIG, four_layers, tensor_file


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A four-layer checkpoint; each test changes it, and must leave it as changed."""
    return four_layers(tmp_path / "source")


def edit_index(root: Path, **changes: Any) -> None:
    index = json.loads((root / INDEX).read_text())
    index["weight_map"] |= changes
    (root / INDEX).write_text(json.dumps(index))


def refused(source: Path, match: str, output: Path | None = None, **options: Any) -> None:
    before = sha256_tree(source)
    target = output or source.parent / "out"
    with pytest.raises(PruneError, match=match):
        cut(str(source), target, **{"drop_layers": [1], "verify": False, **options})
    assert sha256_tree(source) == before
    assert output is not None or not target.exists()
    assert not list(source.parent.glob(".*.partial"))


@pytest.mark.parametrize("name", ["../x.safetensors", "a/../../x.safetensors"])
def test_f01_index_with_dots(source: Path, name: str) -> None:
    edit_index(source, extra=name)
    refused(source, "not a plain name")


def test_f02_absolute_path(source: Path) -> None:
    edit_index(source, extra="/etc/x.safetensors")
    refused(source, "not a plain name")


WINDOWS = ["C:\\x.safetensors", "C:x.safetensors", "\\\\host\\share\\x.safetensors", "//h/s.safetensors"]


@pytest.mark.parametrize("name", WINDOWS)
def test_f03_windows_and_unc(source: Path, name: str) -> None:
    edit_index(source, extra=name)
    refused(source, "not a plain name")


def test_f04_symlink_out_of_the_directory(source: Path) -> None:
    (source / "a.safetensors").rename(source.parent / "elsewhere.safetensors")
    (source / "a.safetensors").symlink_to(source.parent / "elsewhere.safetensors")
    refused(source, "outside the checkpoint")


def test_f04_hub_cache_links_are_allowed(source: Path) -> None:
    snapshot, blobs = source.parent / "models--o--m" / "snapshots" / "r1", source.parent / "models--o--m" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for path in source.iterdir():
        path.rename(blobs / f"blob-{path.name}")
        (snapshot / path.name).symlink_to(Path("../../blobs") / f"blob-{path.name}")
    assert cut(str(snapshot), source.parent / "out", drop_layers=[1], verify=False).bytes_written == 20


def test_f05_missing_shard(source: Path) -> None:
    (source / "b.safetensors").unlink()
    refused(source, "b.safetensors: missing")


def test_f06_index_key_that_no_shard_holds(source: Path) -> None:
    edit_index(source, ghost="a.safetensors")
    refused(source, "ghost")


def test_f07_shard_key_missing_from_the_index(source: Path) -> None:
    tensor_file(source / "a.safetensors", ["model.layers.0.w", "model.layers.1.w", "model.a", "stray"])
    refused(source, "stray")


def test_f08_duplicate_across_shards(source: Path) -> None:
    tensor_file(source / "b.safetensors", ["model.layers.2.w", "model.layers.3.w", "model.b", "model.a"])
    refused(source, "is also in")


def test_f08_duplicate_within_a_header() -> None:
    item = '"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'
    raw = f"{{{item},{item}}}".encode()
    with pytest.raises(PruneError, match="twice"):
        parse_header(raw, 8 + len(raw) + 1, "x")


@pytest.mark.parametrize(
    ("table", "payload", "match"),
    [
        ({"a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}}, 1, "truncated"),
        ({"a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}}, 3, "trailing"),
        ({"a": {"dtype": "U8", "shape": [1], "data_offsets": [1, 2]}}, 2, "hole"),
        ({"a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]},
          "b": {"dtype": "U8", "shape": [2], "data_offsets": [1, 3]}}, 3, "overlaps"),
        ({"a": {"dtype": "U8", "shape": [1 << 64], "data_offsets": [0, 1]}}, 1, "64-bit"),
        ({"a": {"dtype": "X9", "shape": [1], "data_offsets": [0, 1]}}, 1, "unknown dtype"),
        ({"a": {"dtype": "U8", "shape": [1], "data_offsets": [1, 0]}}, 1, "begin <= end"),
        ([], 0, "no JSON object"),
    ],
)  # fmt: skip
def test_f09_corrupt_header(table: Any, payload: int, match: str) -> None:
    raw = json.dumps(table).encode()
    with pytest.raises(PruneError, match=match):
        parse_header(raw, 8 + len(raw) + payload, "x")


@pytest.mark.parametrize("length", [1 << 40, (1 << 64) - 1, 9])
def test_f09_header_length_beyond_the_file(tmp_path: Path, length: int) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b"{}")
    with pytest.raises(PruneError, match="truncated"):
        read_header(path)


def test_f10_truncated_payload(source: Path) -> None:
    data = (source / "a.safetensors").read_bytes()
    (source / "a.safetensors").write_bytes(data[:-2])
    refused(source, "truncated")


def test_f12_mixed_dtypes_carry_on(source: Path) -> None:
    tensor_file(source / "b.safetensors", ["model.layers.2.w", "model.layers.3.w", "model.b"], "BF16")
    cut(str(source), source.parent / "out", drop_layers=[1], verify=False)
    entries = read_header(source.parent / "out" / SINGLE).entries
    assert sorted(entry.dtype for entry in entries) == ["BF16"] * 3 + ["F32"] * 2


@pytest.mark.parametrize("depth", [3, 5])
def test_f13_config_and_weights_disagree(source: Path, depth: int) -> None:
    (source / "config.json").write_text(json.dumps(CONFIG | {"num_hidden_layers": depth}))
    refused(source, "disagree")


def test_f14_per_layer_list_of_the_wrong_length(source: Path) -> None:
    (source / "config.json").write_text(json.dumps(CONFIG | {"layer_types": ["full_attention"] * 3}))
    refused(source, "layer_types has 3 entries for 4")


def test_f16_pickle_only(source: Path) -> None:
    for path in source.glob("*.safetensors*"):
        path.unlink()
    (source / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    refused(source, "pickled")


def test_f19_stale_single_file_beside_an_index(source: Path) -> None:
    tensor_file(source / SINGLE, ["x"])
    refused(source, "stale")


def test_f20_not_causal(source: Path) -> None:
    (source / "config.json").write_text(json.dumps(CONFIG | {"architectures": ["BertForMaskedLM"]}))
    refused(source, "no causal language model")


def test_f21_unsupported_quantisation(source: Path) -> None:
    (source / "config.json").write_text(json.dumps(CONFIG | {"quantization_config": {"quant_method": "magic"}}))
    refused(source, "magic")


def test_f24_disk_full(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    refused(source, "disk is full")


def test_f27_target_not_empty(source: Path) -> None:
    target = source.parent / "used"
    target.mkdir()
    (target / "x").write_text("mine")
    refused(source, "not empty", output=target)
    assert (target / "x").read_text() == "mine"


@pytest.mark.parametrize("where", ["out", "."])
def test_f28_target_inside_the_source(source: Path, where: str) -> None:
    refused(source, "inside", output=source / where)


def test_infinity_in_a_config_is_carried(source: Path) -> None:
    (source / "config.json").write_text(json.dumps(CONFIG | {"time_step_limit": [0.0, float("inf")]}))
    cut(str(source), source.parent / "out", drop_layers=[1], verify=False)
    assert json.loads((source.parent / "out/config.json").read_text())["time_step_limit"] == [0.0, float("inf")]


@pytest.mark.parametrize("depth", [2**31, 10**30, 0, -1, "4", True])
def test_an_absurd_depth_is_refused_at_once(source: Path, depth: Any) -> None:
    (source / "config.json").write_text(json.dumps(CONFIG | {"num_hidden_layers": depth}))
    refused(source, "num_hidden_layers")


@pytest.mark.parametrize("layers", [[], [4], [-1], [0, 1, 2, 3], "3-1", "a", ""])
def test_layers_that_do_not_fit_are_usage_errors(source: Path, layers: Any) -> None:
    with pytest.raises(UsageError):
        cut(str(source), source.parent / "out", drop_layers=layers, verify=False)
    assert not (source.parent / "out").exists()


def fuzz_header(raw: bytes, slack: int) -> None:
    with contextlib.suppress(PruneError):
        parse_header(raw, 8 + len(raw) + slack, "fuzz")


VALID = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
MUTATED = st.tuples(st.integers(0, len(VALID)), st.integers(0, 12), st.binary(max_size=12)).map(
    lambda t: VALID[: t[0]] + t[2] + VALID[t[0] + t[1] :]
)


@settings(max_examples=300, deadline=None)
@given(MUTATED | st.binary(max_size=200), st.integers(0, 8))
def test_mutated_headers_raise_only_our_error(raw: bytes, slack: int) -> None:
    fuzz_header(raw, slack)


@pytest.mark.slow
@settings(max_examples=100_000, deadline=None)
@given(MUTATED | st.binary(max_size=200), st.integers(0, 8))
def test_a_hundred_thousand_mutated_headers_raise_only_our_error(raw: bytes, slack: int) -> None:
    fuzz_header(raw, slack)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=40))
def test_any_file_name_in_an_index_is_read_inside_or_refused(tmp_path_factory: Any, name: str) -> None:
    root = tmp_path_factory.mktemp("fuzz")
    (root / "config.json").write_text(json.dumps(CONFIG))
    (root / INDEX).write_text(json.dumps({"weight_map": {"a": name + ".safetensors"}}))
    with pytest.raises(PruneError):
        read_checkpoint(root)
