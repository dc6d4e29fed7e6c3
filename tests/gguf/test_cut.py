"""`prune cut FILE.gguf`: kept tensors bit for bit under new numbers, every count and array right, or a refusal."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import gguf
import numpy
import pytest
import torch
from transformers import AutoModelForCausalLM

import prune
from prune.errors import PruneError, UsageError
from prune.gguf import cut as cut_module
from prune.gguf.architectures import ALIKE, NO_ROPE, RECURRENT, WINDOWS
from prune.gguf.header import read_header
from prune.planning.plan import Plan
from prune.surgery import byte_copies
from tests.faults.file_systems import on_another_file_system
from tests.gguf.files import add_tensors, finish, save_llama, tensors, writer
from tests.gguf.test_header import HOSTILE


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("gguf") / "source.gguf", layers=6)


def small(path: Path, layers: int, architecture: str, **values: Any) -> Path:
    """A file of one tiny tensor a layer, with keys of the architecture: list -> array, whole number -> uint32."""
    file = gguf.GGUFWriter(path, architecture)
    file.add_block_count(layers)
    for key, value in values.items():
        name = f"{architecture}.{key.replace('__', '.')}"
        file.add_array(name, value) if isinstance(value, list) else file.add_uint32(name, value)
    for layer in range(layers):
        file.add_tensor(f"blk.{layer}.w", numpy.full(8, layer, dtype=numpy.float32))
    finish(file)
    return path


def contents(path: Path) -> dict[str, Any]:
    """Every field as the `gguf` package reads it."""
    return {k: f.contents() for k, f in gguf.GGUFReader(path).fields.items() if not k.startswith("GGUF.")}


def test_kept_tensors_are_the_sources_bytes_under_their_new_numbers(source: Path, tmp_path: Path) -> None:
    result = prune.cut(str(source), tmp_path / "cut.gguf", drop_layers="1,3-4")
    assert (result.keep, result.drop, result.verified) == ([0, 2, 5], [1, 3, 4], True)
    old = {t.name: t for t in gguf.GGUFReader(source).tensors}
    new = {t.name: t for t in gguf.GGUFReader(tmp_path / "cut.gguf").tensors}
    assert len(new) == 2 + 3 * 9
    for name, tensor in new.items():
        number = name.split(".")[1] if name.startswith("blk.") else None
        before = name if number is None else name.replace(f"blk.{number}.", f"blk.{result.keep[int(number)]}.", 1)
        assert tensor.tensor_type == old[before].tensor_type
        assert tensor.shape.tolist() == old[before].shape.tolist()
        assert tensor.data.tobytes() == old[before].data.tobytes()
    before, after = contents(source), contents(tmp_path / "cut.gguf")
    assert after.pop("prune.kept_layers") == [0, 2, 5]
    assert after.pop("llama.block_count") == 3
    del before["llama.block_count"]
    assert after == before


def test_offsets_follow_the_order_of_the_table_as_llama_cpp_demands(source: Path, tmp_path: Path) -> None:
    prune.cut(str(source), tmp_path / "cut.gguf", keep_layers="1,4")
    found = read_header(tmp_path / "cut.gguf")
    at = found.tensors[0].begin
    for tensor in found.tensors:
        assert tensor.begin == at
        at = -(-tensor.end // 32) * 32
    assert (tmp_path / "cut.gguf").stat().st_size == at


def test_the_cut_of_the_file_imports_to_the_cut_of_the_imported_file(source: Path, tmp_path: Path) -> None:
    prune.cut(str(source), tmp_path / "cut.gguf", drop_layers="0,3")
    prune.import_gguf(tmp_path / "cut.gguf", tmp_path / "a")
    prune.import_gguf(source, tmp_path / "whole")
    prune.cut(str(tmp_path / "whole"), tmp_path / "b", drop_layers="0,3", verify=False)
    a, b = (AutoModelForCausalLM.from_pretrained(tmp_path / name).eval() for name in "ab")
    ids = torch.arange(30)[None]
    assert torch.equal(a(ids).logits, b(ids).logits)
    with contextlib.redirect_stderr(io.StringIO()):
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="cut.gguf", dtype=torch.bfloat16).eval()
    assert torch.equal(theirs(ids).logits, b(ids).logits)


def test_a_split_file_is_cut_as_the_whole_one(source: Path, tmp_path: Path) -> None:
    save_llama(tmp_path / "s.gguf", layers=6, split_max_tensors=11)
    parts = sorted(tmp_path.glob("s-*.gguf"))
    assert len(parts) == 6
    prune.cut(str(parts[0]), tmp_path / "a.gguf", drop_layers="2")
    prune.cut(str(source), tmp_path / "b.gguf", drop_layers="2")
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()
    with pytest.raises(UsageError, match=r"later part; give the first, s-00001-of-00006\.gguf"):
        prune.cut(str(parts[2]), tmp_path / "c.gguf", drop_layers="2")
    shutil.copy(parts[3], parts[4])
    with pytest.raises(PruneError, match="says that it is part 3 of 6"):
        prune.cut(str(parts[0]), tmp_path / "c.gguf", drop_layers="2")
    parts[4].unlink()
    with pytest.raises(PruneError, match=r"s-00005-of-00006\.gguf: missing; all 6 parts"):
        prune.cut(str(parts[0]), tmp_path / "c.gguf", drop_layers="2")


def test_a_split_file_is_imported_as_the_whole_one(source: Path, tmp_path: Path) -> None:
    save_llama(tmp_path / "s.gguf", layers=6, split_max_tensors=30)
    prune.import_gguf(tmp_path / "s-00001-of-00002.gguf", tmp_path / "a")
    prune.import_gguf(source, tmp_path / "b")
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()
    assert len(json.loads((tmp_path / "a/prune_import.json").read_text())["sha256"]) == 2
    assert sorted(os.listdir(tmp_path / "a")) == sorted(os.listdir(tmp_path / "b"))


def test_arrays_and_counts_follow_their_layers(tmp_path: Path) -> None:
    path = small(tmp_path / "d.gguf", 6, "deci", attention__head_count=[4, 0, 3, 4, 5, 6],
                 attention__head_count_kv=[2, 0, 1, 2, 1, 2], feed_forward_length=[10, 11, 12, 13, 14, 15])  # fmt: skip
    prune.cut(str(path), tmp_path / "c.gguf", drop_layers="2,4")
    found = contents(tmp_path / "c.gguf")
    assert found["deci.attention.head_count"] == [4, 0, 4, 6]
    assert found["deci.attention.head_count_kv"] == [2, 0, 2, 2]
    assert found["deci.feed_forward_length"] == [10, 11, 13, 15]
    with pytest.raises(PruneError, match=r"layer 1 has no attention, and llama\.cpp needs some in the first layer"):
        prune.cut(str(path), tmp_path / "x.gguf", drop_layers="0")


def test_dense_layers_in_front_and_prediction_layers_at_the_end_are_counted_anew(tmp_path: Path) -> None:
    path = small(tmp_path / "g.gguf", 7, "glm4moe", leading_dense_block_count=3, nextn_predict_layers=1,
                 feed_forward_length=[1, 2, 3, 4, 5, 6, 7])  # fmt: skip
    result = prune.cut(str(path), tmp_path / "c.gguf", drop_layers="1,4")
    found = contents(tmp_path / "c.gguf")
    assert result.num_layers_before == 6
    assert found["glm4moe.block_count"] == 4
    assert found["glm4moe.leading_dense_block_count"] == 2
    assert found["glm4moe.nextn_predict_layers"] == 0
    assert found["glm4moe.feed_forward_length"] == [1, 3, 4, 6]
    assert [t.data[0] for t in gguf.GGUFReader(tmp_path / "c.gguf").tensors] == [0, 2, 3, 5]
    with pytest.raises(UsageError, match="layer 6 does not exist"):
        prune.cut(str(path), tmp_path / "x.gguf", drop_layers="6")


@pytest.mark.parametrize("architecture", sorted(WINDOWS))
def test_windows_that_the_period_would_get_wrong_are_written_out(tmp_path: Path, architecture: str) -> None:
    period = WINDOWS[architecture]
    path = small(tmp_path / "w.gguf", 3 * period, architecture, attention__sliding_window=16)
    key = f"{architecture}.attention.sliding_window_pattern"
    whole = prune.cut(str(path), tmp_path / "whole.gguf", drop_layers=list(range(period)))
    assert key not in contents(tmp_path / "whole.gguf")
    assert not whole.notes
    broken = prune.cut(str(path), tmp_path / "broken.gguf", drop_layers=[1])
    slides = [(i + 1) % period != 0 for i in range(3 * period) if i != 1]
    assert contents(tmp_path / "broken.gguf")[key] == slides
    assert read_header(tmp_path / "broken.gguf").get(key).kind == 7  # bool, as llama.cpp's own converter writes it
    assert key in broken.notes[0]
    prune.cut(str(tmp_path / "broken.gguf"), tmp_path / "twice.gguf", drop_layers=[0])
    again = contents(tmp_path / "twice.gguf")
    assert again[key] == slides[1:]
    assert again["prune.kept_layers"] == [i for i in range(3 * period) if i not in (0, 1)]


def test_a_period_that_the_file_states_is_the_one_that_counts(tmp_path: Path) -> None:
    path = small(tmp_path / "w.gguf", 6, "gemma3", attention__sliding_window=16, attention__sliding_window_pattern=3)
    prune.cut(str(path), tmp_path / "c.gguf", drop_layers="0")
    key = "gemma3.attention.sliding_window_pattern"
    assert contents(tmp_path / "c.gguf")[key] == [True, False, True, True, False]
    prune.cut(str(path), tmp_path / "whole.gguf", drop_layers="0-2")
    assert contents(tmp_path / "whole.gguf")[key] == 3
    path = small(tmp_path / "none.gguf", 6, "gemma3")
    prune.cut(str(path), tmp_path / "none-cut.gguf", drop_layers="0")
    assert key not in contents(tmp_path / "none-cut.gguf")


def test_recurrent_layers_are_written_out_and_one_with_attention_stays(tmp_path: Path) -> None:
    path = small(tmp_path / "q.gguf", 8, "qwen3next", full_attention_interval=4)
    prune.cut(str(path), tmp_path / "c.gguf", drop_layers="0")
    recurrent = [True, True, False, True, True, True, False]
    assert contents(tmp_path / "c.gguf")["qwen3next.attention.recurrent_layers"] == recurrent
    with pytest.raises(PruneError, match="no layer with attention would be left"):
        prune.cut(str(path), tmp_path / "x.gguf", drop_layers="3,7")


REFUSED = [
    ("mpt2", 4, {}, "0", "no rule for architecture 'mpt2'.*known are .*llama"),
    ("smollm3", 8, {}, "0", "layers without rotary positions come every 4 in smollm3.*drop whole groups of 4"),
    ("ernie4_5-moe", 6, {"interleave_moe_layer_step": 2}, "1", "interleave_moe_layer_step"),
    ("gemma3", 62, {"attention__sliding_window": 4}, "0-5", "attention's scale of gemma3 from a depth of 62"),
    ("gemma2", 48, {}, "0-1", "attention's scale of gemma2 from a depth of 46"),
    ("llama", 5, {"thing": [1, 2, 3, 4, 5]}, "1", "llama.thing has one entry per layer, but its meaning is unknown"),
    ("llama", 5, {"every_n_layers": 2}, "1", "llama.every_n_layers speaks of layers"),
    ("llama", 5, {"attention__shared_kv_layers": 2}, "1", "llama.attention.shared_kv_layers speaks of layers"),
    ("llama", 5, {"feed_forward_length": [1, 2, 3]}, "1", "llama.feed_forward_length has 3 entries for 5 layers"),
    ("lfm2", 4, {"attention__head_count_kv": [0, 2, 0, 2]}, "1,3", "no layer with attention would be left"),
]


@pytest.mark.parametrize(("architecture", "layers", "values", "drop", "message"), REFUSED)
def test_what_cannot_be_expressed_is_refused_by_name(tmp_path, architecture, layers, values, drop, message) -> None:
    path = small(tmp_path / "r.gguf", layers, architecture, **values)
    with pytest.raises(PruneError, match=message):
        prune.cut(str(path), tmp_path / "x.gguf", drop_layers=drop)
    assert [p.name for p in tmp_path.iterdir()] == ["r.gguf"]


def test_a_whole_group_may_go_where_a_step_is_fixed(tmp_path: Path) -> None:
    path = small(tmp_path / "s.gguf", 8, "smollm3")
    assert prune.cut(str(path), tmp_path / "c.gguf", drop_layers="0-3").verified


def test_tensors_that_do_not_fit_the_depth_or_have_strange_numbers_are_refused(tmp_path: Path) -> None:
    for name, extra, message in (("a", "blk.9.w", "block_count is 3"), ("b", "v.blk.0.w", "no layer's")):
        file = gguf.GGUFWriter(tmp_path / f"{name}.gguf", "llama")
        file.add_block_count(3)
        for tensor in ("blk.0.w", "blk.1.w", "blk.2.w", extra):
            file.add_tensor(tensor, numpy.zeros(8, dtype=numpy.float32))
        finish(file)
        with pytest.raises(PruneError, match=message):
            prune.cut(str(tmp_path / f"{name}.gguf"), tmp_path / "x.gguf", drop_layers="1")


def test_a_hostile_depth_costs_nothing(tmp_path: Path) -> None:
    file = gguf.GGUFWriter(tmp_path / "h.gguf", "llama")
    file.add_block_count(4_000_000_000)
    file.add_tensor("blk.0.w", numpy.zeros(8, dtype=numpy.float32))
    finish(file)
    began = time.process_time()
    with pytest.raises(PruneError, match="block_count is 4000000000"):
        prune.cut(str(tmp_path / "h.gguf"), tmp_path / "x.gguf", drop_layers="0")
    assert time.process_time() - began < 1


def test_an_importance_matrix_is_cut_along(tmp_path: Path) -> None:
    file = gguf.GGUFWriter(tmp_path / "i.gguf", "")
    file.add_type("imatrix")
    file.add_array("imatrix.datasets", ["a.txt"])
    for layer in range(4):
        for part in ("in_sum2", "counts"):
            file.add_tensor(f"blk.{layer}.ffn_up.weight.{part}", numpy.full(4, layer, dtype=numpy.float32))
    finish(file)
    prune.cut(str(tmp_path / "i.gguf"), tmp_path / "c.gguf", drop_layers="1")
    found = {t.name: t.data[0] for t in gguf.GGUFReader(tmp_path / "c.gguf").tensors}
    assert found["blk.1.ffn_up.weight.counts"] == 2
    assert len(found) == 6


def test_plans_are_taken_and_compensation_is_not(source: Path, tmp_path: Path) -> None:
    plan = Plan(source="x", num_layers=6, keep=[0, 1, 2, 5], drop=[3, 4], order=[3, 4], criterion="a", strategy="b")
    plan.save(tmp_path / "plan.json")
    result = prune.cut(str(source), tmp_path / "c.gguf", plan=str(tmp_path / "plan.json"), dry_run=True)
    assert (result.drop, list(tmp_path.iterdir())) == ([3, 4], [tmp_path / "plan.json"])
    with pytest.raises(UsageError, match="compensation"):
        prune.cut(str(source), tmp_path / "c.gguf", plan=plan.model_copy(update={"compensation": {"kind": "x"}}))


def test_a_mistake_leaves_everything_as_it_was(source: Path, tmp_path: Path) -> None:
    before = source.read_bytes()
    (tmp_path / "there.gguf").write_text("mine")
    link = tmp_path / "link.gguf"
    link.symlink_to(source)
    for target, options, message in (
        (tmp_path / "there.gguf", {"drop_layers": "1"}, "exists"),
        (source, {"drop_layers": "1"}, "exists"),
        (link, {"drop_layers": "1"}, "exists"),
        (tmp_path, {"drop_layers": "1"}, "is a directory; give output the file"),
        (tmp_path / "out", {"drop_layers": "1"}, r"ends in .gguf, or .*`prune import .*\.gguf -o DIR`"),
        (tmp_path / "c.gguf", {"drop_layers": "6"}, "layer 6 does not exist"),
        (tmp_path / "c.gguf", {"drop_layers": "0-5"}, "all 6 layers"),
        (tmp_path / "c.gguf", {}, "drop_layers"),
        (tmp_path / "c.gguf", {"drop_layers": "1", "link": True}, "link: not for a GGUF file"),
        (tmp_path / "c.gguf", {"drop_layers": "1", "drop_attn": "2"}, "drop_attn: not for a GGUF file"),
    ):
        with pytest.raises(UsageError, match=message):
            prune.cut(str(source), target, **options)
    with pytest.raises(UsageError, match="no such file"):
        prune.cut(str(tmp_path / "none.gguf"), tmp_path / "c.gguf", drop_layers="1")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link.gguf", "there.gguf"]
    assert (source.read_bytes(), (tmp_path / "there.gguf").read_text()) == (before, "mine")


def test_a_copy_that_is_not_faithful_never_gets_its_name(source: Path, tmp_path: Path, monkeypatch) -> None:
    def careless(origin: int, output: int, offset: int, count: int, path: Path) -> None:
        byte_copies.copy_range(origin, output, offset - 1, count, path)

    monkeypatch.setattr("prune.gguf.writer.copy_range", careless)
    with pytest.raises(PruneError, match="was not copied faithfully; nothing was written"):
        prune.cut(str(source), tmp_path / "c.gguf", drop_layers="1")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", ["copy_file_range", "sendfile"])
def test_where_the_kernel_cannot_copy_between_file_systems_the_bytes_are_the_same(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    def other_file_system(*_: object) -> int:
        raise OSError(18, "Invalid cross-device link")

    prune.cut(str(source), tmp_path / "a.gguf", drop_layers="1")
    monkeypatch.setattr(byte_copies, "_copy_file_range", other_file_system)
    if missing == "sendfile":
        monkeypatch.setattr(byte_copies, "_sendfile", other_file_system)
    prune.cut(str(source), tmp_path / "b.gguf", drop_layers="1")
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_a_target_on_another_file_system_has_the_same_bytes(source: Path, tmp_path: Path) -> None:
    prune.cut(str(source), tmp_path / "a.gguf", drop_layers="1")
    with on_another_file_system(tmp_path) as place:
        assert prune.cut(str(source), place / "b.gguf", drop_layers="1").verified
        assert os.listdir(place) == ["b.gguf"]
        assert (place / "b.gguf").read_bytes() == (tmp_path / "a.gguf").read_bytes()


def test_a_sub_byte_tensor_of_half_a_block_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    data, message = HOSTILE["half a block"]
    (tmp_path / "h.gguf").write_bytes(data)
    with pytest.raises(PruneError, match=message):
        prune.cut(str(tmp_path / "h.gguf"), tmp_path / "c.gguf", drop_layers="0")
    assert os.listdir(tmp_path) == ["h.gguf"]


def test_a_full_disk_is_said_and_leaves_nothing(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(byte_copies.os, "posix_fallocate", full)
    with pytest.raises(PruneError, match=r"c\.gguf: the disk is full"):
        prune.cut(str(source), tmp_path / "c.gguf", drop_layers="1")
    assert list(tmp_path.iterdir()) == []


def test_a_leftover_of_a_killed_run_is_overwritten_and_a_running_one_is_not(source: Path, tmp_path: Path) -> None:
    (tmp_path / ".c.gguf.partial").write_bytes(b"x" * 10_000_000)
    prune.cut(str(source), tmp_path / "c.gguf", drop_layers="1")
    assert (tmp_path / "c.gguf").stat().st_size < 1_000_000
    with cut_module.staged_file(tmp_path / "d.gguf"), pytest.raises(PruneError, match="another process is writing it"):
        prune.cut(str(source), tmp_path / "d.gguf", drop_layers="1")


def test_every_architecture_of_the_tables_is_one_that_gguf_knows() -> None:
    known = set(gguf.MODEL_ARCH_NAMES.values())
    assert not (ALIKE | set(WINDOWS) | set(RECURRENT) | set(NO_ROPE)) - known


def test_add_tensors_writes_quantised_ones(source: Path) -> None:
    """The other tests would say little if everything were float32."""
    assert {t.type_name for t in read_header(source).tensors} == {"F32", "Q8_0"}


def test_a_file_with_tensors_before_their_order_is_cut_right(tmp_path: Path) -> None:
    """Tensors in an order of their own: shared ones between layers, layers backwards."""
    file = writer(tmp_path / "o.gguf", 3)
    found = tensors(3)
    add_tensors(file, dict(sorted(found.items(), reverse=True)))
    finish(file)
    prune.cut(str(tmp_path / "o.gguf"), tmp_path / "c.gguf", drop_layers="1")
    new = {t.name: t for t in gguf.GGUFReader(tmp_path / "c.gguf").tensors}
    numpy.testing.assert_array_equal(new["blk.1.attn_q.weight"].data, found["blk.2.attn_q.weight"])
    numpy.testing.assert_array_equal(new["token_embd.weight"].data, found["token_embd.weight"])
