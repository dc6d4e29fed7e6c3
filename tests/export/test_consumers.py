"""Other runtimes read what we write: the same greedy tokens as transformers. Skipped where they are not installed.

How to install them stands in prune/packaging/README.md; `LLAMA_CPP` names a directory of llama.cpp's source.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from prune.model.loading import load_model
from prune.surgery.cut import cut
from tests.conftest import REPOSITORY

NEW_TOKENS = 12


def llama(directory: Path, tokenizer: Any) -> Path:
    """A six-layer Llama of random weights over a tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=6, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.2, bos_token_id=0, eos_token_id=1, max_position_embeddings=128,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def demo_tokenizer(demo_model: Path) -> Any:
    """The demo model's tokenizer with the three special tokens that CTranslate2's Llama needs."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(demo_model)
    first = tokenizer.convert_ids_to_tokens(0)
    for role in ("unk_token", "bos_token", "eos_token"):
        setattr(tokenizer, role, getattr(tokenizer, role) or first)
    return tokenizer


def sentencepiece_like() -> Any:
    """A tokenizer of Llama's kind (BPE on words that begin with U+2581, bytes as fallback) for a few words."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<unk>", "<s>", "</s>"]
    raw = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    raw.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    every_byte = [AddedToken(f"<0x{byte:02X}>", normalized=False) for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=[*special, *map(str, every_byte)], show_progress=False)
    raw.train_from_iterator(["the little girl went to the park with her dog and they ran all day"] * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def greedy(directory: Path, ids: list[int]) -> list[int]:
    model = load_model(str(directory), device="cpu")
    batch: Any = torch.tensor([ids])  # [1, T]
    out = model.generate(
        batch,
        attention_mask=torch.ones_like(batch),
        max_new_tokens=NEW_TOKENS,
        min_new_tokens=NEW_TOKENS,
        do_sample=False,
    )
    return out[0, len(ids) :].tolist()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "demo"])
def test_ctranslate2_generates_the_same_tokens(name: str, tmp_path: Path, demo_model: Path) -> None:
    ctranslate2 = pytest.importorskip("ctranslate2")
    from ctranslate2.converters import TransformersConverter
    from transformers import AutoTokenizer

    source = llama(tmp_path / "source", demo_tokenizer(demo_model)) if name == "llama" else demo_model
    cut(str(source), tmp_path / "out", drop_layers=[3], verify=False)
    try:
        TransformersConverter(str(tmp_path / "out")).convert(str(tmp_path / "converted"))
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        if name == "demo":
            pytest.skip(f"this CTranslate2 does not convert the demo model's family: {error}")
        raise
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = list(range(20, 30))
    runtime = ctranslate2.Generator(str(tmp_path / "converted"), compute_type="float32", intra_threads=1)
    found = runtime.generate_batch(
        [tokenizer.convert_ids_to_tokens(ids)], max_length=NEW_TOKENS, min_length=NEW_TOKENS, beam_size=1,
        include_prompt_in_result=False,
    )  # fmt: skip
    assert found[0].sequences_ids[0] == greedy(tmp_path / "out", ids)


TOKEN_IDS_ONLY = """
import sys
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/gguf-py"]
import convert_hf_to_gguf
from conversion.qwen import Qwen3Model

def token_ids_only(model):
    model._set_vocab_none()
    model.gguf_writer.add_vocab_size(model.hparams["vocab_size"])

Qwen3Model.set_vocab = token_ids_only
sys.argv = ["convert_hf_to_gguf.py", *sys.argv[2:]]
convert_hf_to_gguf.main()
"""
"""llama.cpp's converter as it is, but for the vocabulary: it knows pre-tokenizers by a hash, and the demo's own is none
of them. Weights and token ids do not need it."""


def to_gguf(directory: Path, output: Path, kind: str, *, vocabulary: bool) -> Path:
    """Convert with llama.cpp's own script, in a process of its own."""
    tree = Path(os.environ["LLAMA_CPP"]).resolve()
    converter = [str(tree / "convert_hf_to_gguf.py")] if vocabulary else ["-c", TOKEN_IDS_ONLY, str(tree)]
    command = [sys.executable, *converter, str(directory), "--outtype", kind, "--outfile", str(output)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return output


@pytest.mark.slow
@pytest.mark.skipif("LLAMA_CPP" not in os.environ, reason="LLAMA_CPP names no directory with convert_hf_to_gguf.py")
@pytest.mark.parametrize("kind", ["f32", "f16"])
@pytest.mark.parametrize("name", ["llama", "stories", "demo"])
def test_llama_cpp_generates_the_same_tokens(name: str, kind: str, tmp_path: Path, demo_model: Path) -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    stories = REPOSITORY.parent / "shared/models/stories260K-split16"
    if name == "stories" and not stories.is_dir():
        pytest.skip(f"{stories} is not here")
    source = {"stories": stories, "demo": demo_model}.get(name) or llama(tmp_path / "source", sentencepiece_like())
    cut(str(source), tmp_path / "out", drop_layers=[3, 5], verify=False)
    file = to_gguf(tmp_path / "out", tmp_path / "out.gguf", kind, vocabulary=name != "demo")
    runtime = llama_cpp.Llama(
        str(file), n_ctx=64, n_threads=1, n_threads_batch=1, verbose=False,
        type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32,
    )  # fmt: skip
    ids = list(range(20, 30))  # never text: which tokens it becomes is the tokenizer's affair, which no cut touches
    found = runtime.generate(ids, temp=0.0, repeat_penalty=1.0)
    assert [next(found) for _ in range(NEW_TOKENS)] == greedy(tmp_path / "out", ids)
