"""Folding a map of what an MLP adds into the weights of the layer, so that the architecture stays stock.

A layer adds `s · (W h + b)` (down projection, perhaps a constant s) or the output `w ∘ n + b` of a norm that follows
the MLP. A matrix T goes into a down projection: `W' = T W`, `b' = T b + c / s`; behind a norm only a diagonal map
does: `w' = t ∘ w`. Which case a layer is, is read off one call of it, and every fold is tried before it is believed.
Whatever cannot be folded is refused with the reason.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from prune.model.anatomy import Anatomy, is_norm
from prune.model.sublayers import Contribution, SublayerTracer
from prune.model.tracing import Walk, stream_of
from prune.wording import message
from prune.wording.text import english

Place = Literal["projection", "norm"]
TOLERANCE = 1e-3  # relative, of an explanation or of a fold


class CannotFoldError(Exception):
    """The reason why a layer takes no map."""


@dataclass(frozen=True)
class Seat:
    """Where a layer's map can be folded.

    Attributes:
        layer: its index in the source.
        place: `projection` takes a matrix, `norm` a diagonal.
        name: dotted name of the module in the model.
        module: it.
        scale: s, what the model multiplies the module's output with before adding it.
    """

    layer: int
    place: Place
    name: str
    module: nn.Module
    scale: float

    @property
    def has_bias(self) -> bool:
        return getattr(self.module, "bias", None) is not None


def observe(walk: Walk, tracer: SublayerTracer, layer: int, hidden: torch.Tensor) -> Contribution:
    """What a layer adds to `hidden` [B, T, d]."""
    seen: list[Contribution] = []
    with tracer.observing(seen.append, walk.batch.attention_mask.bool()):
        walk.run(hidden, [layer])
    return seen[0]


def find_seat(model: nn.Module, walk: Walk, tracer: SublayerTracer, layer: int, hidden: torch.Tensor) -> Seat:
    """Where the map of a layer goes, found by running it once on `hidden` [B, T, d].

    Raises:
        CannotFoldError: attention and MLP cannot be told apart, the MLP adds nothing, or no single weight writes what
            it adds.
    """
    anatomy = tracer.anatomy
    outputs: dict[str, torch.Tensor] = {}
    with contextlib.ExitStack() as stack:
        for name, module in _writers(anatomy, layer):

            def keep(_: nn.Module, args: Any, output: Any, name: str = name) -> None:
                outputs.pop(name, None)
                outputs[name] = stream_of(output).detach().clone()

            stack.callback(module.register_forward_hook(keep).remove)
        contribution = observe(walk, tracer, layer, hidden)
    if contribution.mlp is None:
        raise CannotFoldError(english(tracer.layouts[layer].reason or message("apart_unknown")))
    real = walk.batch.attention_mask.bool()
    added = contribution.mlp[real].double()  # [N, d]
    if not added.any():
        raise CannotFoldError("its MLP adds nothing that a map could change")
    modules = dict(_writers(anatomy, layer))
    prefix = f"{anatomy.layers_path}.{layer}."
    for name, output in reversed(outputs.items()):
        if output.numel() != contribution.mlp.numel():
            continue
        part = output.reshape(contribution.mlp.shape)[real].double()  # [N, d]
        scale = float((part * added).sum() / (part * part).sum().clamp(min=1e-30))
        if float((scale * part - added).norm()) > TOLERANCE * float(added.norm()):
            continue
        module = modules[name]
        place: Place = "norm" if is_norm(name.rpartition(".")[2], module) else "projection"
        _check_weight(model, module)
        return Seat(layer, place, prefix + name, module, 1.0 if abs(scale - 1) < TOLERANCE else scale)
    raise CannotFoldError("no single down projection or norm writes what its MLP adds (a mixture of experts?)")


def _writers(anatomy: Anatomy, layer: int) -> Iterator[tuple[str, nn.Module]]:
    """Projections and norms of a layer outside attention, which could write the MLP's addition."""
    from transformers.pytorch_utils import Conv1D

    attention = anatomy.attention[layer]
    inside = {id(module) for module in attention.modules()} if attention is not None else set()
    for name, module in anatomy.layers[layer].named_modules():
        if id(module) in inside or not name:
            continue
        # bitsandbytes' layers derive from Linear: only exact types hold plain weights.
        if type(module) in (nn.Linear, Conv1D) or is_norm(name.rpartition(".")[2], module):
            yield name, module


def _check_weight(model: nn.Module, module: nn.Module) -> None:
    weight = getattr(module, "weight", None)
    if weight is None or not weight.is_floating_point():
        raise CannotFoldError("the weight that writes what its MLP adds is quantised, or there is none")
    owners = [name for name, p in model.named_parameters(remove_duplicate=False) if p is weight]
    if len(owners) != 1:
        raise CannotFoldError(f"the weight that writes what its MLP adds is shared: {', '.join(owners[:3])}")


def fold(
    seat: Seat,
    matrix: torch.Tensor,
    shift: torch.Tensor | None,
    check: Contribution,
    walk: Walk,
    tracer: SublayerTracer,
) -> dict[str, torch.Tensor]:
    """New weights under which the layer adds `matrix @ a + shift` where it added a.

    Args:
        seat: from `find_seat`.
        matrix: [d, d] for a projection, [d] (a diagonal) for a norm.
        shift: [d], or None; only where the module has a bias.
        check: what the layer adds now, on the walk's batch.

    Returns:
        parameter name -> new value in the parameter's dtype.

    Raises:
        CannotFoldError: no way of writing the weights gives that map when the layer is run.
    """
    mask = walk.batch.attention_mask.bool()
    assert check.mlp is not None  # find_seat has seen to it
    added = check.mlp[mask].double()  # [N, d]
    wanted = added @ matrix.T if matrix.dim() == 2 else added * matrix  # [N, d]
    if shift is not None:
        wanted = wanted + shift
    for tensors in _candidates(seat, matrix, shift):
        with applied(seat.module, seat.name, tensors):
            after = observe(walk, tracer, seat.layer, check.resid_pre)
        got = (after.resid_post - check.resid_post).float() + check.mlp  # robust to how the addition is read
        if float((got[mask].double() - wanted).norm()) <= TOLERANCE * float(wanted.norm()):
            return tensors
    raise CannotFoldError(f"{seat.name}: its weights do not act as a plain {seat.place}")


def _candidates(seat: Seat, matrix: torch.Tensor, shift: torch.Tensor | None) -> Iterator[dict[str, torch.Tensor]]:
    """Ways to write the map into the weights; norms may multiply by w or by 1 + w (Gemma)."""
    weight: torch.Tensor = seat.module.weight.detach().double()  # type: ignore[operator, union-attr]
    dtype = seat.module.weight.dtype  # type: ignore[union-attr]
    device = weight.device
    matrix = matrix.to(device)
    rest: dict[str, torch.Tensor] = {}
    if seat.has_bias:
        bias: torch.Tensor = seat.module.bias.detach().double()  # type: ignore[operator, union-attr]
        mapped = matrix @ bias if matrix.dim() == 2 else matrix * bias
        extra = 0 if shift is None else shift.to(device) / seat.scale
        rest[f"{seat.name}.bias"] = (mapped + extra).to(dtype)
    if seat.place == "norm":
        yield {f"{seat.name}.weight": (matrix * weight).to(dtype), **rest}
        yield {f"{seat.name}.weight": (matrix * (1 + weight) - 1).to(dtype), **rest}
    elif type(seat.module) is nn.Linear:
        yield {f"{seat.name}.weight": (matrix @ weight).to(dtype), **rest}
    else:
        yield {f"{seat.name}.weight": (weight @ matrix.T).to(dtype), **rest}  # GPT-2's Conv1D holds its transpose


@contextlib.contextmanager
def applied(root: nn.Module, path: str, tensors: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Weights in place of a module's own, for the time of the context.

    Args:
        root: the module; `path` is its name in the model, empty for the model itself.
        tensors: parameter names in the model -> values.
    """
    prefix = f"{path}." if path else ""
    owners = [(root.get_parameter(name.removeprefix(prefix)), value) for name, value in tensors.items()]
    before = [parameter.data for parameter, _ in owners]
    try:
        for parameter, value in owners:
            parameter.data = value.to(parameter.device, parameter.dtype)
        yield
    finally:
        for (parameter, _), value in zip(owners, before, strict=True):
            parameter.data = value
