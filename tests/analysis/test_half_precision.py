"""What computing in half precision costs, against the same rounded weights computed in float32.

Everything holds within 0.05 but maxima over tokens, which hold what the model's own arithmetic does to its worst token.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prune.analysis import analyze
from prune.analysis.result import Analysis
from prune.data.domains import Document, Domain
from prune.model.anatomy import find_anatomy
from prune.model.loading import load_model, load_tokenizer
from prune.model.sublayers import Rule, SublayerTracer

from .tiny import SHARED, domains, stories, tiny

GROWN = SHARED / "models" / "stories260K-grown15"
INSERTED = (1, 2, 4, 5, 7, 8, 10, 11, 13, 14)
MEASURES = ("contributions", "effects")
Seen = list[dict[str, Any]]


def assert_near(half: Analysis, full: Analysis, *, maxima: bool) -> None:
    """Effects within 0.05, their maxima over tokens only if asked; relative contributions within 1 %."""
    compared = 0
    for key, value in full.measurements.items():
        if "_effect/" in key and not key.endswith("top1") and (maxima or not key.endswith("max")):
            np.testing.assert_allclose(half[key], value, atol=0.05, rtol=0, err_msg=key)
            compared += 1
        if key.startswith("relative_contribution"):
            np.testing.assert_allclose(half[key], value, rtol=0.01, err_msg=key)
    assert compared >= 30


@functools.cache
def grown(dtype: torch.dtype) -> torch.nn.Module:
    """The checkpoint with ten layers that add 2-3 % of the stream, rounded to bfloat16 and computed in `dtype`."""
    if not GROWN.is_dir():
        pytest.skip("needs the shared models")
    return load_model(str(GROWN), dtype="bfloat16").to(dtype)


def held_out(count: int, length: int) -> dict[str, Domain]:
    path = SHARED / "data" / "tinystories" / "eval.txt"
    if not path.is_file():
        pytest.skip("needs the shared data")
    tokenizer = load_tokenizer(str(GROWN))
    texts = [text.strip()[: 6 * length] for text in path.read_text(encoding="utf-8").split("<|endoftext|>")[:count]]
    documents = tuple(Document(tuple(tokenizer(text)["input_ids"][:length])) for text in texts)
    return {"stories": Domain("stories", documents, "shared", "hash")}


@torch.no_grad()
def seen_by(model: torch.nn.Module, document: Document) -> Seen:
    """Of each layer: what attention and MLP return [T, d], and what attention is called with."""
    seen: Seen = []
    handles = []
    for layer in model.model.layers:
        values: dict[str, Any] = {}
        seen.append(values)
        handles += [
            layer.self_attn.register_forward_pre_hook(
                lambda _, args, given, v=values: v.update(given), with_kwargs=True
            ),
            layer.self_attn.register_forward_hook(lambda _, args, output, v=values: v.update(attn=output[0][0])),
            layer.mlp.register_forward_hook(lambda _, args, output, v=values: v.update(mlp=output[0])),
        ]
    values = {"logits": model(input_ids=torch.tensor([document.input_ids]), use_cache=False).logits[0]}
    for handle in handles:
        handle.remove()
    return [*seen, values]


@contextlib.contextmanager
def float32_stream(model: torch.nn.Module) -> Iterator[None]:
    """Sub-layers and head as they are, on a stream that is summed, and normed, in float32."""
    norms = [model.model.norm]
    for layer in model.model.layers:
        norms += [layer.input_layernorm, layer.post_attention_layernorm]
    handles = [norm.register_forward_hook(lambda _, args, output: output.to(model.dtype)) for norm in norms]
    first = model.model.layers[0]
    handles.append(first.register_forward_pre_hook(lambda _, args: (args[0].float(), *args[1:])))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def lost(rounded: torch.Tensor, exact: torch.Tensor) -> float:
    """The largest share of a token's exact value [T, d] that rounding has taken."""
    return float(((rounded.double() - exact).norm(dim=-1) / exact.norm(dim=-1)).max())


def lost_of_contributions(rounded: Seen, exact: Seen) -> float:
    pairs = zip(rounded[:-1], exact[:-1], strict=True)
    return max(lost(r["attn"].double() + r["mlp"].double(), e["attn"] + e["mlp"]) for r, e in pairs)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_half_precision_stays_near_float32(family: str, tmp_path: Path) -> None:
    tiny(family).to(torch.bfloat16).save_pretrained(tmp_path)
    full, half = (
        analyze(load_model(str(tmp_path), dtype=dtype), domains(), measure=["all"], bootstrap=0)
        for dtype in ("float32", "bfloat16")
    )
    assert_near(half, full, maxima=True)


def test_small_contributions_are_read_from_the_sub_layers() -> None:
    """Layers that add 3 % of the stream, which bfloat16 rounds by a tenth of that."""
    document = stories("stories260K-grown15")[1]["stories"].documents[0]
    model = grown(torch.bfloat16)
    tracer = SublayerTracer(find_anatomy(model))
    with torch.no_grad(), tracer.observing(lambda seen: None):
        model(input_ids=torch.tensor([document.input_ids]), use_cache=False)
    for layout in tracer.layouts.values():
        assert layout.attn == layout.mlp == Rule("module")


def test_float16_holds_for_small_contributions_maxima_included() -> None:
    data = stories("stories260K-grown15")[1]
    full, half = (
        analyze(grown(dtype), data, measure=MEASURES, bootstrap=0) for dtype in (torch.float32, torch.float16)
    )
    assert_near(half, full, maxima=True)
    assert not any("bfloat16" in line for line in half.info["warnings"])


def test_bfloat16_holds_for_small_contributions_up_to_what_the_model_itself_rounds_away() -> None:
    """All but maxima within 0.05. With e the largest share of a contribution c that the model's own arithmetic loses at
    any token (read with plain hooks), ‖c - c'‖ / ‖c‖ is off by 2 e (1 + itself), as ‖c'‖ is at most ‖c - c'‖ + ‖c‖."""
    data = held_out(6, 64)
    full, half = (
        analyze(grown(dtype), data, measure=MEASURES, bootstrap=0) for dtype in (torch.float32, torch.bfloat16)
    )
    assert_near(half, full, maxima=False)
    share, distance = 0.0, 0.0
    for document in data["stories"].documents:
        exact, rounded = seen_by(grown(torch.float64), document), seen_by(grown(torch.bfloat16), document)
        share = max(share, lost_of_contributions(rounded, exact))
        change = rounded[-1]["logits"].double().softmax(-1) - exact[-1]["logits"].softmax(-1)  # [T, V]
        distance = max(distance, float(change.norm(dim=-1).max()))
    assert share < 0.15
    for key in full.measurements:
        if key.endswith("_max"):
            assert (abs(half[key] - full[key]) <= 2 * distance).all(), key
        elif key.endswith("/max"):
            assert (abs(half[key] - full[key]) <= 2 * share * (1 + full[key])).all(), key
    assert any("bfloat16" in line for line in half.info["warnings"])


def test_a_float32_stream_would_not_hold_maxima() -> None:
    """Attention alone, given its exact input, loses as much: scores reach 80, of which bfloat16 keeps 8 bits."""
    model = grown(torch.bfloat16)
    kept, alone = 0.0, 0.0
    for document in held_out(6, 64)["stories"].documents:
        exact = seen_by(grown(torch.float64), document)
        with float32_stream(model):
            kept = max(kept, lost_of_contributions(seen_by(model, document), exact))
        for index in INSERTED:
            given, turns = exact[index]["hidden_states"], exact[index]["position_embeddings"]
            with torch.no_grad():
                output, _ = model.model.layers[index].self_attn(given.bfloat16(), [x.bfloat16() for x in turns], None)
            alone = max(alone, lost(output[0], exact[index]["attn"]))
    assert kept > 0.06
    assert alone > 0.06
