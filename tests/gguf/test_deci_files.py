"""GGUF files of architecture deci: the bytes of what stays, zeros in the arrays for what went, and refusals."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest
import torch
from transformers import AutoModelForCausalLM

import prune
from evals.runtimes import installed
from evals.worker import Worker
from prune.errors import PruneError, UsageError
from tests.gguf.files import HEADS, INNER, add_tensors, finish, save_llama, tensors, writer
from tests.surgery.test_deci import parted

LAYERS = 6
ATTENTION, MLP = [1, 2, 4], [2]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("gguf") / "source.gguf", layers=LAYERS)


def test_what_stays_is_the_sources_bytes_and_what_went_is_zero_in_the_arrays(source: Path, tmp_path: Path) -> None:
    result = prune.cut(str(source), tmp_path / "cut.gguf", plan=parted(ATTENTION, MLP, LAYERS), runtime=["llama.cpp"])
    assert (result.verified, result.drop_attention, result.drop_mlp) == (True, ATTENTION, MLP)
    old = {t.name: t for t in gguf.GGUFReader(source).tensors}
    new = {t.name: t for t in gguf.GGUFReader(tmp_path / "cut.gguf").tensors}
    gone = {n for n in old for i in ATTENTION if n.startswith(f"blk.{i}.attn_")}
    gone |= {n for n in old for i in MLP if n.startswith(f"blk.{i}.ffn_")}
    assert len(gone) == 3 * 5 + 4
    assert new.keys() == old.keys() - gone
    assert all(
        t.data.tobytes() == old[n].data.tobytes() and t.tensor_type == old[n].tensor_type for n, t in new.items()
    )
    before, after = (
        {k: f.contents() for k, f in gguf.GGUFReader(p).fields.items()} for p in (source, tmp_path / "cut.gguf")
    )
    heads = [0 if i in ATTENTION else HEADS for i in range(LAYERS)]
    assert after["general.architecture"] == "deci"
    assert after["deci.attention.head_count"] == after["deci.attention.head_count_kv"] == heads
    assert after["deci.feed_forward_length"] == [0 if i in MLP else INNER for i in range(LAYERS)]
    assert after["deci.block_count"] == LAYERS
    assert not [key for key in after if key.startswith("llama.")]
    assert after["tokenizer.ggml.tokens"] == before["tokenizer.ggml.tokens"]


@pytest.mark.parametrize(
    ("attn", "mlp", "message"),
    [
        ([0, 3], [], r"needs attention in layer 0.*protect 0"),
        ([5], [5], r"needs an MLP in the last layer, 5"),
        ([1], [1, 3], r"drops the attention of a layer whose MLP alone is gone, layer 3.*unit attention.*mlx"),
    ],
)
def test_what_llama_cpp_reads_wrongly_is_refused(
    source: Path, tmp_path: Path, attn: list[int], mlp: list[int], message: str
) -> None:
    with pytest.raises(PruneError, match=message):
        prune.cut(str(source), tmp_path / "cut.gguf", plan=parted(attn, mlp, LAYERS))
    with pytest.raises(UsageError, match=r"does not exist; the model has layers 0-5"):
        prune.cut(str(source), tmp_path / "cut.gguf", plan=parted([6], [], 7))
    with pytest.raises(UsageError, match=r"made for 7 layers, the model has 6"):
        prune.cut(str(source), tmp_path / "cut.gguf", plan=parted([1], [], 7))
    assert list(tmp_path.iterdir()) == []


def test_files_that_deci_has_no_place_for_are_refused(source: Path, tmp_path: Path) -> None:
    plan = parted([1], [], 2)
    made = tensors(2)
    for name, change in (("norm", {"blk.0.attn_q_norm.weight": made["blk.0.attn_norm.weight"]}), ("key", {})):
        file = writer(tmp_path / f"{name}.gguf", 2)
        if name == "key":
            file.add_sliding_window(8)
        add_tensors(file, made | change)
        finish(file)
    file = writer(tmp_path / "qwen3.gguf", 2, "qwen3")
    add_tensors(file, made)
    finish(file)
    for name, message in (
        ("norm", "attn_q_norm.weight has no place"),
        ("key", "sliding_window has no place"),
        ("qwen3", "qwen3' has norms on queries and keys"),
    ):
        with pytest.raises(PruneError, match=message):
            prune.cut(str(tmp_path / f"{name}.gguf"), tmp_path / "cut.gguf", plan=plan)
    with pytest.raises(UsageError, match="mlx: reads a directory"):
        prune.cut(str(source), tmp_path / "cut.gguf", plan=parted([1], [], LAYERS), runtime=["mlx"])
    assert not (tmp_path / "cut.gguf").exists()


@pytest.mark.runtime
def test_llama_cpp_gives_the_tokens_of_the_model_without_its_sublayers(source: Path, tmp_path: Path) -> None:
    if not installed("llama.cpp"):
        pytest.skip("llama.cpp: not installed; scripts/runtime llama.cpp")
    plan = parted(ATTENTION, MLP, LAYERS)
    file = writer(tmp_path / "f32.gguf", LAYERS)
    add_tensors(file, tensors(LAYERS), quantized=False)
    finish(file)
    prune.cut(str(tmp_path / "f32.gguf"), tmp_path / "cut.gguf", plan=plan)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="f32.gguf", dtype="float32")
    prune.cut(model, plan=plan)
    prompts = torch.randint(0, 250, (5, 8), generator=torch.Generator().manual_seed(5)).tolist()
    asked = {"max_new_tokens": 24, "do_sample": False, "eos_token_id": -1, "pad_token_id": 0}
    asked["attention_mask"] = torch.ones(1, 8, dtype=torch.long)
    own = [model.generate(torch.tensor([ids]), **asked)[0, len(ids) :].tolist() for ids in prompts]
    with Worker("llama.cpp", tmp_path / "cut.gguf", {"vocabulary": model.config.vocab_size}) as worker:
        assert worker.generate(prompts, 24) == own
