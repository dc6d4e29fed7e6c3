"""Removing only the attention or only the MLP of a layer.

In memory the sub-layer's output projection is set to zero, so that it adds nothing to the residual stream: exact, with
a working cache, for analysis and search. That saves neither memory nor time, and no stock architecture can leave one
sub-layer out, so on disk a sub-layer can go only where that is the removal of a layer: when a layer loses both, or in
families whose layers hold a single sub-layer each (Nemotron-H). Everything else is refused with the alternatives.
Assumption: the output projection is found by name and believed only after a forward pass shows that nothing is added.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from prune.checkpoint.depth_fields import depth_of, text_part
from prune.errors import PruneError, UsageError
from prune.surgery.families import family_of

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

    from prune.model.anatomy import Anatomy

OUTPUT = re.compile(
    r"(^|\.)(o_proj|out_proj|c_proj|dense|wo|o_b_proj|output_linear|down_proj|down_proj_bias|fc2|fc_out|dense_4h_to_h|w2)"
    r"(\.|$)"
)
"""Names of the projections back to the residual stream."""


def as_layers(config: dict[str, Any], attn: Collection[int], mlp: Collection[int]) -> list[int]:
    """The whole layers that removing these sub-layers amounts to.

    Args:
        config: parsed config.json.
        attn: layers whose attention goes.
        mlp: layers whose MLP goes.

    Raises:
        UsageError: a layer that does not exist, or that has no such sub-layer.
        PruneError: no stock architecture can express it; the alternatives are named.
    """
    text, depth = text_part(config), depth_of(config)
    for flag, chosen in (("--drop_attn", attn), ("--drop_mlp", mlp)):
        outside = [index for index in chosen if not 0 <= index < depth]
        if outside:
            raise UsageError(f"{flag}: layer {outside[0]} does not exist; the model has layers 0-{depth - 1}")
    kinds = family_of(str(text.get("model_type"))).sublayers
    types = text.get("layers_block_type") or []
    if kinds and len(types) == depth:
        for flag, part, chosen in (("--drop_attn", "attn", attn), ("--drop_mlp", "mlp", mlp)):
            wrong = [index for index in chosen if types[index] not in kinds[part]]
            if wrong:
                raise UsageError(f"{flag}: layer {wrong[0]} is {types[wrong[0]]}")
        return sorted({*attn, *mlp})
    half = sorted(set(attn) ^ set(mlp))
    if half:
        part = "attention" if half[0] in attn else "MLP"
        raise PruneError(
            f"layer {half[0]}: no stock architecture leaves out only the {part} of a layer; drop both"
            f" (--drop_attn {half[0]} --drop_mlp {half[0]}) or the whole layer, or use prune.cut(loaded_model,"
            " drop_attn=..., drop_mlp=...), which keeps the architecture and saves no time"
        )
    return sorted(attn)


def drop_sublayers(model: PreTrainedModel, *, attn: Sequence[int] = (), mlp: Sequence[int] = ()) -> PreTrainedModel:
    """Make sub-layers add nothing, in place; returns the same object.

    Args:
        model: a causal language model.
        attn: layers whose attention (or other token mixer) goes.
        mlp: layers whose MLP goes.

    Raises:
        UsageError: a layer that does not exist.
        PruneError: a sub-layer or its output projection is not found, or something would still be added.
    """
    _zero(model, attn, mlp)
    return model


@contextlib.contextmanager
def without_sublayers(
    model: PreTrainedModel, *, attn: Sequence[int] = (), mlp: Sequence[int] = ()
) -> Iterator[PreTrainedModel]:
    """`drop_sublayers` for the duration of a `with` block; the weights are put back afterwards, to the bit."""
    saved = _zero(model, attn, mlp)
    try:
        yield model
    finally:
        _restore(saved)


def _zero(model: PreTrainedModel, attn: Sequence[int], mlp: Sequence[int]) -> list[tuple[nn.Parameter, torch.Tensor]]:
    """Zero the projections, check by running, and return what they were."""
    import torch

    from prune.model.anatomy import find_anatomy

    anatomy = find_anatomy(model)
    saved: list[tuple[nn.Parameter, torch.Tensor]] = []
    try:
        for name, chosen in (("attn", attn), ("mlp", mlp)):
            for index in chosen:
                for parameter in _projections(anatomy, name, index):
                    saved.append((parameter, parameter.detach().clone()))
                    with torch.no_grad():
                        parameter.zero_()
        _check_nothing_added(model, anatomy, attn, mlp)
    except PruneError:
        _restore(saved)
        raise
    return saved


def _restore(saved: list[tuple[nn.Parameter, torch.Tensor]]) -> None:
    import torch

    with torch.no_grad():
        for parameter, value in reversed(saved):
            parameter.copy_(value)


def _projections(anatomy: Anatomy, part: str, index: int) -> list[nn.Parameter]:
    """Weights and biases of the output projections of one sub-layer."""
    if not 0 <= index < anatomy.num_layers:
        raise UsageError(f"{part}: layer {index} does not exist; the model has layers 0-{anatomy.num_layers - 1}")
    layer, attention = anatomy.layers[index], anatomy.attention[index]
    if (attention if part == "attn" else anatomy.mlp[index]) is None:
        raise PruneError(f"layer {index}: no {part} found in {type(layer).__name__}")
    inside = {id(parameter) for parameter in (attention.parameters() if attention is not None else ())}
    # an MLP may be several modules (shared expert, fc1 and fc2), so it is all that is not attention
    named = [(name, p) for name, p in layer.named_parameters() if (id(p) in inside) == (part == "attn")]
    found = [parameter for name, parameter in named if OUTPUT.search(name)]
    if not found:
        raise PruneError(f"layer {index}: no output projection of its {part} found in {type(layer).__name__}")
    return found


def _check_nothing_added(model: Any, anatomy: Anatomy, attn: Sequence[int], mlp: Sequence[int]) -> None:
    """Run a few tokens and require that the named sub-layers' contributions are exactly zero."""
    import torch

    from prune.model.sublayers import Contribution, SublayerTracer
    from prune.model.tracing import stream_of

    left: list[str] = []
    silent: set[int] = set()

    def look(seen: Contribution) -> None:
        if seen.layer in attn and seen.layer in mlp:
            if not torch.equal(seen.resid_pre, seen.resid_post):
                left.append(f"layer {seen.layer}")
            return
        for part, chosen, added in (("attn", attn, seen.attn), ("mlp", mlp, seen.mlp)):
            # side by side, contributions are fitted to the outputs, and nothing can be fitted to an output of zeros
            gone = seen.parallel and seen.layer in silent
            if seen.layer in chosen and not gone and (added is None or bool((added != 0).any())):
                left.append(f"layer {seen.layer}'s {part}")

    def listen(index: int) -> Any:
        return lambda module, given, out: silent.add(index) if not bool(stream_of(out).any()) else None

    device = anatomy.embedding.weight.device
    ids = torch.arange(4, 12, device=device).reshape(1, 8) % anatomy.embedding.weight.shape[0]  # [1, 8]
    with torch.no_grad(), contextlib.ExitStack() as stack:
        for chosen, modules in ((attn, anatomy.attention), (mlp, anatomy.mlp)):
            for index in chosen:
                if (module := modules[index]) is not None:
                    stack.callback(module.register_forward_hook(listen(index)).remove)
        stack.enter_context(SublayerTracer(anatomy).observing(look))
        model(input_ids=ids, use_cache=False)
    if left:
        raise PruneError(f"{type(model).__name__}: {left[0]} would still add to the stream (a bias or norm behind it?)")
