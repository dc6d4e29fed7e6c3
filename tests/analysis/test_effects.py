"""Every interventional figure equals a naive reading: the whole model once for each intervention, with plain hooks.

One document at a time, batch 1, no padding, no cache; nothing is restarted and nothing shared.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

import prune.analysis.run
from prune.analysis import analyze
from prune.analysis.future import cut_positions
from prune.data.domains import Document, batches

from .tiny import domains, left_padded, stories, tiny

PARTS = ("layer", "attn", "mlp")
STATISTICS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "mean": lambda x: x.mean(0), "p99": lambda x: torch.quantile(x, 0.99, dim=0), "max": lambda x: x.amax(0)
}  # fmt: skip
FEW = {"general": (9, 2, 6), "math": (8, 3)}
MEASURES = ["sublayer_dnll", "skip", "local", "future", "swap"]
Edit = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # (what it was given, what it returned) -> what it returns


def stack_of(model: torch.nn.Module) -> torch.nn.ModuleList:
    if hasattr(model, "gpt_neox"):
        return model.gpt_neox.layers
    if hasattr(model, "transformer"):
        return model.transformer.h
    return model.model.layers


def added_by(layer: torch.nn.Module, part: str) -> torch.nn.Module:
    """The module whose output is what the part adds to the stream."""
    if hasattr(layer, "post_feedforward_layernorm"):  # Gemma 2, OLMo 2: the norms that follow
        return layer.post_attention_layernorm if part == "attn" else layer.post_feedforward_layernorm
    if part == "mlp":
        return layer.mlp
    names = ("self_attn", "attention", "attn", "self_attention")
    return next(getattr(layer, name) for name in names if hasattr(layer, name))


def edited(module: torch.nn.Module, edit: Edit, stream: int = 0) -> torch.utils.hooks.RemovableHandle:
    """`edit` applied to what a module returns for one document, [T, d]; its argument number `stream` is handed on."""

    def hook(_, args, kwargs, output):
        given = (args[stream] if args else kwargs["hidden_states"])[0]
        value = output[0] if isinstance(output, tuple) else output
        new = edit(given, value[0])[None]
        return (new, *output[1:]) if isinstance(output, tuple) else new

    return module.register_forward_hook(hook, with_kwargs=True)


def removal(model: torch.nn.Module, layer: int, part: str, where: torch.Tensor) -> torch.utils.hooks.RemovableHandle:
    """Leave out `part` of a layer at the positions `where` [T]."""
    block = stack_of(model)[layer]
    if part == "layer":
        return edited(block, lambda given, value: torch.where(where[:, None], given, value))
    module = added_by(block, part)
    inside = "Bloom" in type(module).__name__  # BLOOM's modules return the stream they are given, with their own in it
    return edited(module, lambda given, value: torch.where(where[:, None], given * inside, value), stream=int(inside))


@contextlib.contextmanager
def contributions(model: torch.nn.Module) -> Iterator[list[torch.Tensor]]:
    """What each layer adds [T, d], filled in by the next pass."""
    added: list[torch.Tensor] = []
    handles = []
    for block in stack_of(model):

        def hook(_, args, output):
            added.append((output[0] if isinstance(output, tuple) else output)[0] - args[0][0])

        handles.append(block.register_forward_hook(hook))
    try:
        yield added
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def run(model: torch.nn.Module, ids: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    with contributions(model) as added:
        return model(input_ids=ids[None], use_cache=False).logits[0], list(added) if added else added


def naive_tables(model: torch.nn.Module, document: Document, first_token: str) -> dict[str, torch.Tensor]:
    """skip, future and local effects of every token of one document: key -> [n, L, L]."""
    depth, ids = len(stack_of(model)), torch.tensor(document.input_ids)
    place = torch.arange(len(ids))
    everywhere = place >= (1 if first_token == "keep" else 0)
    inputs, clean = inputs_of(model, ids), run(model, ids)[1]
    tables: dict[str, torch.Tensor] = {}
    for part in PARTS:
        kinds: dict[str | int, torch.Tensor] = {"skip": everywhere, "local": everywhere}
        kinds |= {cut: everywhere & (place < cut) for cut in cut_positions(len(ids), 3, first_token)}
        found = {kind: torch.zeros(len(ids), depth, depth) for kind in kinds}
        for skipped in range(depth):
            missing = torch.where(everywhere[:, None], run_part(model, ids, skipped, part), 0.0)  # [T, d]
            for kind, where in kinds.items():
                if kind == "local":
                    handles = [given(stack_of(model)[i], inputs[i] - missing) for i in range(skipped + 1, depth)]
                else:
                    handles = [removal(model, skipped, part, where)]
                altered = run(model, ids)[1]
                for handle in handles:
                    handle.remove()
                for layer in range(skipped + 1, depth):
                    change = clean[layer] - altered[layer]  # [T, d]
                    found[kind][:, skipped, layer] = change.norm(dim=-1) / clean[layer].norm(dim=-1)
        tables[f"skip_effect/{part}"], tables[f"local_effect/{part}"] = found.pop("skip"), found.pop("local")
        later = [table[cut:] for cut, table in found.items()]
        tables[f"future_effect/{part}"] = torch.cat(later) if later else torch.zeros(0, depth, depth)
    return tables


def given(layer: torch.nn.Module, stream: torch.Tensor) -> torch.utils.hooks.RemovableHandle:
    """A layer that sees `stream` [T, d] whatever it is given."""
    return layer.register_forward_pre_hook(lambda _, args: (stream[None], *args[1:]))


def inputs_of(model: torch.nn.Module, ids: torch.Tensor) -> list[torch.Tensor]:
    """The stream before each layer, [T, d]."""
    seen: list[torch.Tensor] = []
    handles = [layer.register_forward_pre_hook(lambda _, args: seen.append(args[0][0])) for layer in stack_of(model)]
    run(model, ids)
    for handle in handles:
        handle.remove()
    return seen


@torch.no_grad()
def run_part(model: torch.nn.Module, ids: torch.Tensor, layer: int, part: str) -> torch.Tensor:
    """[T, d]: what a part of a layer adds."""
    seen: list[torch.Tensor] = []
    if part == "layer":
        return run(model, ids)[1][layer]
    scale = getattr(model.config, "residual_multiplier", 1.0)
    module = added_by(stack_of(model)[layer], part)
    inside = "Bloom" in type(module).__name__

    def note(given: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        seen.append((value - given * inside) * scale)
        return value

    handle = edited(module, note, stream=int(inside))
    run(model, ids)
    handle.remove()
    return seen[0]


def naive_outputs(model: torch.nn.Module, document: Document, first_token: str) -> dict[str, torch.Tensor]:
    """Output effects of attention and MLP, and swaps, of every counted prediction of one document: key -> [n, K]."""
    depth, ids = len(stack_of(model)), torch.tensor(document.input_ids)
    logits = run(model, ids)[0]
    everywhere = torch.arange(len(ids)) >= (1 if first_token == "keep" else 0)
    found: dict[str, torch.Tensor] = {}
    for part in ("attn", "mlp"):
        altered = []
        for layer in range(depth):
            handle = removal(model, layer, part, everywhere)
            altered.append(run(model, ids)[0])
            handle.remove()
        found |= {f"output_effect/{part}/{kind}": value for kind, value in compare(logits, altered, document).items()}
    for distance, name in ((1, "swap_effect"), (3, "swap_effect/by_3")):
        altered = [swapped(model, ids, first, distance, first_token) for first in range(depth - distance)]
        values = compare(logits, altered, document)
        found |= {f"{name}/{kind}": values[kind] for kind in ("kl", "dnll")}
    return found


def compare(logits: torch.Tensor, altered: list[torch.Tensor], document: Document) -> dict[str, torch.Tensor]:
    """kind -> [counted, K]."""
    where = torch.arange(document.answer_start - 1, len(document.input_ids) - 1)
    target = torch.tensor(document.input_ids)[where + 1][:, None]
    p = logits[where].double().log_softmax(-1)
    columns: dict[str, list[torch.Tensor]] = {}
    for other in altered:
        q = other[where].double().log_softmax(-1)
        for kind, value in {
            "dnll": (p - q).gather(1, target)[:, 0], "kl": (p.exp() * (p - q)).sum(-1),
            "l2_mean": (p.exp() - q.exp()).norm(dim=-1), "l2_max": (p.exp() - q.exp()).norm(dim=-1),
            "top1": (p.argmax(-1) == q.argmax(-1)).double(),
        }.items():  # fmt: skip
            columns.setdefault(kind, []).append(value)
    return {kind: torch.stack(values, 1) for kind, values in columns.items()}


def swapped(model: torch.nn.Module, ids: torch.Tensor, first: int, distance: int, first_token: str) -> torch.Tensor:
    """Logits with two layers exchanged in the layer list; under `keep` every layer sees its clean stream at token 0."""
    stack, last = stack_of(model), first + distance
    handles, kinds = [], getattr(model.config, "layer_types", None)
    if first_token == "keep":
        inputs: dict[torch.nn.Module, torch.Tensor] = {}
        modules = [*stack, model.model.norm]
        for module in modules:
            handles.append(module.register_forward_pre_hook(lambda m, args: inputs.update({m: args[0][0, 0].clone()})))
        run(model, ids)
        for handle in handles:
            handle.remove()

        def restore(module, args):
            args[0][0, 0] = inputs[module]

        handles = [module.register_forward_pre_hook(restore) for module in modules]
    order = list(range(len(stack)))
    order[first], order[last] = order[last], order[first]
    layers = list(stack)
    try:
        for place, layer in enumerate(order):
            stack[place] = layers[layer]
        if kinds is not None:
            model.config.layer_types = [kinds[i] for i in order]
        return run(model, ids)[0].clone()
    finally:
        for place, module in enumerate(layers):
            stack[place] = module
        if kinds is not None:
            model.config.layer_types = kinds
        for handle in handles:
            handle.remove()


@functools.cache
def expected(family: str, first_token: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """All documents together, and those of `math` alone."""
    model, data = tiny(family), domains(FEW)
    tokens = {name: [naive_tables(model, d, first_token) | naive_outputs(model, d, first_token)
                     for d in domain.documents] for name, domain in data.items()}  # fmt: skip
    return figures(tokens["general"] + tokens["math"]), figures(tokens["math"])


def figures(documents: list[dict[str, torch.Tensor]]) -> dict[str, np.ndarray]:
    found = {}
    for key in documents[0]:
        values = torch.cat([document[key] for document in documents]).double()
        if key.startswith(("output", "swap")):
            found[key] = values.amax(0) if key.endswith("l2_max") else values.mean(0)
        else:
            found |= {f"{key}/{name}": statistic(values) for name, statistic in STATISTICS.items()}
    return {key: value.numpy() for key, value in found.items()}


def assert_equal(family: str, first_token: str, batch_size: int) -> None:
    analysis = analyze(tiny(family), domains(FEW), measure=MEASURES, batch_size=batch_size, bootstrap=0,
                       first_token=first_token, swap_distances=(1, 3))  # fmt: skip
    pooled, math_only = expected(family, first_token)
    for prefix, naive in (("", pooled), ("by_domain/math/", math_only)):
        keys = {k.removeprefix(prefix) for k in analysis.measurements
                if k.startswith(prefix) and (prefix or not k.startswith("by_domain"))}  # fmt: skip
        assert keys == set(naive)
        for key, value in naive.items():
            np.testing.assert_allclose(analysis[prefix + key], value, atol=2e-5, rtol=1e-4, err_msg=prefix + key)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("batch_size", [1, 7])
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_every_effect_equals_the_naive_reading(
    family: str, batch_size: int, side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prune.analysis.run, "batches", batches if side == "right" else left_padded)
    assert_equal(family, "drop", batch_size)


@pytest.mark.parametrize("family", ["gemma2", "gpt_neox", "granite", "olmo2", "gpt_neo", "bloom"])
def test_removal_takes_away_exactly_what_is_added_in_every_block_layout(family: str) -> None:
    assert_equal(family, "drop", 4)


def test_keeping_the_first_token_holds_for_every_intervention() -> None:
    assert_equal("llama", "keep", 4)


def test_layers_that_cannot_be_told_apart_have_no_attention_or_mlp_figures_and_say_so() -> None:
    analysis = analyze(tiny("mamba"), domains(FEW), measure=["all"], bootstrap=0)
    keys = [key for key in analysis.measurements if not key.startswith("by_domain")]
    assert "skip_effect/layer/mean" in keys
    assert "local_effect/layer/max" in keys
    assert not [key for key in keys if "/attn" in key or "/mlp" in key]
    assert any("not measured apart" in line for line in analysis.info["warnings"])


def test_attention_that_cannot_be_removed_exactly_is_absent_with_a_reason() -> None:
    """Something else adds to the stream beside attention, so silencing attention would not give what is reported."""
    model = tiny("llama")
    for layer in model.model.layers:
        kept: dict[str, torch.Tensor] = {}
        layer.input_layernorm.register_forward_hook(lambda _, args, output, kept=kept: kept.update(beside=output))
        layer.post_attention_layernorm.register_forward_pre_hook(
            lambda _, args, kept=kept: args[0].add_(kept["beside"])
        )
    analysis = analyze(model, domains(FEW), measure=["skip", "future", "local"], bootstrap=0)
    assert {k.split("/")[1] for k in analysis.measurements if k.startswith("skip_effect")} == {"layer", "mlp"}
    assert {k.split("/")[1] for k in analysis.measurements if k.startswith("future_effect")} == {"layer", "mlp"}
    assert any("attention alone cannot be left out" in line for line in analysis.info["warnings"])


def test_inserted_layers_come_first_by_every_effect() -> None:
    """Top-1 agreement is highest where the effect is least; a swap ranks pairs, two inserted layers before all others.

    Every pair of neighbours holds an inserted layer, so no neighbours' swap costs much; the kept layers are 3 apart.
    """
    model, data = stories("stories260K-grown15")
    analysis = analyze(model, data, measure=["effects"], bootstrap=0, swap_distances=(1, 3))
    inserted = {1, 2, 4, 5, 7, 8, 10, 11, 13, 14}
    later = np.maximum(np.arange(15)[::-1], 1)
    for key, value in analysis.measurements.items():
        if key.startswith("by_domain") or key.startswith("swap"):
            continue
        score = value.sum(1) / later if value.ndim == 2 else -value if key.endswith("top1") else value
        assert set(np.argsort(score, kind="stable")[:10].tolist()) == inserted, key
    for part in PARTS:
        for statistic in STATISTICS:
            assert (analysis[f"future_effect/{part}/{statistic}"][-1] == 0).all()
    assert set(np.argsort(analysis["swap_effect/kl"])[:5].tolist()) == {1, 4, 7, 10, 13}
    assert set(np.argsort(analysis["swap_effect/by_3/kl"])[-4:].tolist()) == {0, 3, 6, 9}


def test_documents_too_short_for_a_future_are_counted() -> None:
    short = domains({"pairs": (2, 2), "mixed": (2, 9)})
    short["pairs"] = replace(
        short["pairs"], documents=tuple(replace(d, answer_start=1) for d in short["pairs"].documents)
    )
    short["mixed"] = replace(short["mixed"], documents=short["mixed"].documents[1:] + short["pairs"].documents[:1])
    found = analyze(tiny("llama"), short, measure=("future",), first_token="keep", bootstrap=10)
    said = [line for line in found.info["warnings"] if "future effects" in line]
    assert [line.split(" have")[0] for line in said] == ["pairs: 2 of 2 documents", "mixed: 1 of 2 documents"]
    assert "by_domain/pairs/future_effect/layer/mean" not in found.measurements
    assert "by_domain/mixed/future_effect/layer/mean" in found.measurements
    drop = analyze(tiny("llama"), short, measure=("future",), bootstrap=10)
    assert not any("future effects" in line for line in drop.info["warnings"])
