"""Small GGUF files made by the `gguf` package's own writer, which shares no code with ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy

WIDTH, INNER, HEADS, SIZE = 32, 64, 2, 16
"""Hidden size, MLP size, heads, head size of every file made here."""
SPECIAL = ["<|end|>", "<|start|>"]
TEMPLATE = "{% for m in messages %}<|start|>{{ m['content'] }}<|end|>{% endfor %}"
Q8 = gguf.GGMLQuantizationType.Q8_0


def alphabet() -> list[str]:
    """The byte alphabet of GPT-2 vocabularies, by byte."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = {b: 256 + n for n, b in enumerate(b for b in range(256) if b not in shown)}
    return [chr(hidden.get(b, b)) for b in range(256)]


def sentencepiece() -> tuple[list[str], None, list[int]]:
    """Tokens and token types of a Gemma-like vocabulary, which has scores and no merges."""
    words = ["▁", "a", "n", "d", "an", "and", "▁and"]
    return (
        ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *words],
        None,
        [3, 3, 3, 2, *[6] * 256, *[1] * len(words)],
    )


def byte_level() -> tuple[list[str], list[str], list[int]]:
    """Tokens, merges and token types: bytes, three merged words, two control tokens."""
    merges = ["a n", "an d", "Ġ and"]
    tokens = [*alphabet(), "an", "and", "Ġand", *SPECIAL]
    return tokens, merges, [1] * (len(tokens) - len(SPECIAL)) + [3] * len(SPECIAL)


def writer(
    path: Path, layers: int, architecture: str = "llama", *, vocabulary: Any = byte_level, **options: Any
) -> gguf.GGUFWriter:
    """A writer with everything but tensors and what else a test adds."""
    file = gguf.GGUFWriter(path, architecture, **options)
    file.add_block_count(layers)
    file.add_context_length(64)
    file.add_embedding_length(WIDTH)
    file.add_feed_forward_length(INNER)
    file.add_head_count(HEADS)
    file.add_head_count_kv(HEADS)
    file.add_layer_norm_rms_eps(1e-5)
    file.add_rope_freq_base(10000.0)
    file.add_rope_dimension_count(SIZE)
    tokens, merges, types = vocabulary()
    file.add_vocab_size(len(tokens))
    file.add_tokenizer_model("gpt2" if merges else "llama")
    file.add_tokenizer_pre("default")
    file.add_token_list(tokens)
    file.add_token_types(types)
    if merges:
        file.add_token_merges(merges)
        file.add_eos_token_id(len(tokens) - 2)
        file.add_bos_token_id(len(tokens) - 1)
    else:
        file.add_token_scores([-float(index) for index in range(len(tokens))])
        file.add_eos_token_id(1)
        file.add_bos_token_id(2)
        file.add_unk_token_id(3)
    file.add_chat_template(TEMPLATE)
    return file


def tensors(layers: int, seed: int = 0, *, vocabulary: Any = byte_level) -> dict[str, numpy.ndarray]:
    """float32 weights of a Llama decoder by their GGUF names, tied head."""
    rng = numpy.random.default_rng(seed)

    def matrix(*shape: int) -> numpy.ndarray:
        return (rng.standard_normal(shape) * 0.3).astype(numpy.float32)

    found = {"token_embd.weight": matrix(len(vocabulary()[0]), WIDTH)}
    for layer in range(layers):
        name = f"blk.{layer}."
        found[name + "attn_norm.weight"] = 1 + matrix(WIDTH)
        found |= {name + f"attn_{part}.weight": matrix(WIDTH, WIDTH) for part in ("q", "k", "v", "output")}
        found[name + "ffn_norm.weight"] = 1 + matrix(WIDTH)
        found |= {name + f"ffn_{part}.weight": matrix(INNER, WIDTH) for part in ("gate", "up")}
        found[name + "ffn_down.weight"] = matrix(WIDTH, INNER)
    return found | {"output_norm.weight": 1 + matrix(WIDTH)}


def add_tensors(file: gguf.GGUFWriter, found: dict[str, numpy.ndarray], quantized: bool = True) -> None:
    """The MLP's matrices as Q8_0 where asked for, all others as they are."""
    for name, value in found.items():
        if quantized and "ffn_" in name and value.ndim == 2:
            file.add_tensor(name, gguf.quantize(value, Q8), raw_dtype=Q8)
        else:
            file.add_tensor(name, value)


def finish(file: gguf.GGUFWriter) -> None:
    """Write everything."""
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()


def save_llama(path: Path, layers: int = 4, **options: Any) -> Path:
    """A whole small Llama; `options` go to the writer (split_max_tensors ...). Returns the path."""
    file = writer(path, layers, **options)
    add_tensors(file, tensors(layers))
    finish(file)
    return path


def save_gemma(path: Path, windows: dict[str, Any]) -> Path:
    """Gemma 3 of three layers; `windows`: what it says of sliding ones, method of the writer -> value."""
    file = writer(path, 3, "gemma3", vocabulary=sentencepiece)
    file.add_key_length(SIZE)
    file.add_value_length(SIZE)
    for method, value in windows.items():
        getattr(file, method)(value)
    norms = {"attn_q_norm": SIZE, "attn_k_norm": SIZE, "post_attention_norm": WIDTH, "post_ffw_norm": WIDTH}
    found = tensors(3, vocabulary=sentencepiece)
    for layer in range(3):
        for name, width in norms.items():
            found[f"blk.{layer}.{name}.weight"] = numpy.full(width, 1.25, dtype=numpy.float32)
    add_tensors(file, found, quantized=False)
    finish(file)
    return path


SLIDING: dict[str, tuple[dict[str, Any], str]] = {
    "an entry a layer": ({"add_sliding_window": 8, "add_sliding_window_pattern": [True, False, True]}, "SFS"),
    "a period": ({"add_sliding_window": 8, "add_sliding_window_pattern": 2}, "SFS"),
    "neither, which llama.cpp reads as a period of 6": ({"add_sliding_window": 8}, "SSS"),
    "no window, so none slides": ({}, "FFF"),
}
"""What a file says of its windows -> the writer's calls, and which of three layers slide (S) or see everything (F)."""
