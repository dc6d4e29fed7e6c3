"""Tensors that hold a share of every layer: byte ranges against indexing in torch, and what must be refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from zoo.build import tiny_model

from prune.checkpoint.directory import INDEX, SINGLE, read_checkpoint
from prune.errors import PruneError
from prune.surgery import writer
from prune.surgery.config_fields import edit_config
from prune.surgery.cut import cut
from prune.surgery.loaded import drop_layers
from prune.surgery.packed import check_packed, slices_of
from prune.surgery.proof import prove
from prune.surgery.writer import Piece, Shard, write_shard

TABLE, MATRIX = "model.embed_tokens_per_layer.weight", "model.per_layer_model_projection.weight"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    depth=st.integers(2, 6), share=st.integers(1, 5), other=st.integers(1, 9), axis=st.integers(0, 1),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.uint8]), buffer=st.integers(1, 300), data=st.data(),
)  # fmt: skip
def test_byte_ranges_are_what_indexing_gives(
    tmp_path: Path, depth: int, share: int, other: int, axis: int, dtype: torch.dtype, buffer: int, data: st.DataObject
) -> None:
    keep = sorted(data.draw(st.sets(st.integers(0, depth - 1), min_size=1, max_size=depth - 1)))
    shape = (depth * share, other) if axis == 0 else (other, depth * share)
    whole = torch.randint(0, 200, shape).to(dtype)
    rest = torch.arange(7.0)
    save_file({"first": rest, "packed": whole, "rest": rest.clone()}, tmp_path / "in.safetensors")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "in.safetensors").rename(tmp_path / SINGLE)
    pieces = [
        Piece(name, tmp_path / SINGLE, t.entry, slices_of(t.entry, axis, depth, keep) if name == "packed" else None)
        for name, t in read_checkpoint(tmp_path).tensors.items()
    ]
    output = tmp_path / "out.safetensors"
    output.unlink(missing_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "ROWS_BUFFER", buffer)  # rows longer than this are copied range by range
        write_shard(Shard(pieces), {}, output)
    found = load_file(output)
    layers = whole.unflatten(axis, (depth, share))
    assert torch.equal(found["packed"], layers.index_select(axis, torch.tensor(keep)).flatten(axis, axis + 1))
    assert torch.equal(found["first"], rest)
    assert torch.equal(found["rest"], rest)


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("packed") / "source"
    tiny_model("gemma3n_text").save_pretrained(path, max_shard_size="100KB")
    return path


def test_a_sharded_cut_states_its_sizes_and_the_proof_compares_the_content(gemma: Path, tmp_path: Path) -> None:
    with mock.patch("prune.surgery.proof.prove_in_child", prove):
        result = cut(str(gemma), tmp_path / "out", drop_layers=[3, 4], max_shard_size="200KB")
    index = json.loads((tmp_path / "out" / INDEX).read_text())
    written = read_checkpoint(tmp_path / "out").tensors
    assert index["metadata"]["total_size"] == sum(tensor.entry.bytes for tensor in written.values())
    assert result.bytes_written == index["metadata"]["total_size"]
    assert written[TABLE].entry.shape == (128, 6 * 16)
    assert written[MATRIX].entry.shape == (6 * 16, 64)
    check_packed(read_checkpoint(gemma), read_checkpoint(tmp_path / "out"), result.keep, 8)
    with pytest.raises(PruneError, match=TABLE):
        check_packed(read_checkpoint(gemma), read_checkpoint(tmp_path / "out"), [0, 1, 2, 4, 6, 7], 8)
    for name in (TABLE, MATRIX):
        path = written[name].path
        tensors = load_file(path)
        tensors[name][-1, -1] += 1
        save_file(tensors, path, {"format": "pt"})
        with pytest.raises(PruneError, match=name):
            check_packed(read_checkpoint(gemma), read_checkpoint(tmp_path / "out"), result.keep, 8)
        tensors[name][-1, -1] -= 1
        save_file(tensors, path, {"format": "pt"})


def test_a_quantised_or_odd_table_is_refused_by_name(gemma: Path, tmp_path: Path) -> None:
    import shutil

    tensors = {name: load_file(t.path)[name] for name, t in read_checkpoint(gemma).tensors.items()}
    changes: list[dict[str, Any]] = [
        {MATRIX.replace("weight", "weight_scale_inv"): torch.ones(1)},
        {TABLE: torch.zeros(128, 8 * 16 + 1)},
    ]
    for number, change in enumerate(changes):
        source = tmp_path / f"source{number}"
        source.mkdir()
        shutil.copy(gemma / "config.json", source)
        save_file(tensors | change, source / SINGLE, {"format": "pt"})
        with pytest.raises(PruneError, match=next(iter(change))):
            cut(str(source), tmp_path / "out", drop_layers=[3])
        assert not (tmp_path / "out").exists()


def test_a_layer_whose_keys_later_layers_read_stays(gemma: Path) -> None:
    config = json.loads((gemma / "config.json").read_text())  # 6 and 7 read the keys of 5
    with pytest.raises(PruneError, match="num_kv_shared_layers: later layers read layer 5"):
        edit_config(config, [0, 1, 2, 3, 4, 6, 7])
    assert edit_config(config, [0, 1, 2, 3, 4])["num_kv_shared_layers"] == 0
    assert edit_config(config, [0, 1, 2, 3, 5, 7])["num_kv_shared_layers"] == 1


def test_a_wrapped_table_is_refused_before_the_model_changes(gemma: Path) -> None:
    model = tiny_model("gemma3n_text")
    model.model.per_layer_model_projection = torch.nn.Sequential(model.model.per_layer_model_projection)
    before = copy.deepcopy(model.config.to_dict())
    with pytest.raises(PruneError, match=r"per_layer_model_projection .* wrapped or quantised"):
        drop_layers(model, [3])
    assert len(model.model.layers) == 8
    assert model.config.to_dict() == before
