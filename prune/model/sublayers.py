"""What attention and MLP each **add** to the residual stream, exactly, for any block layout.

The first pass decides, layer by layer, which value explains the stream: the module's output, the output of a norm that
follows it (Gemma 2, OLMo 2), either times a constant (Granite), or the float32 difference of the stream around it
(residual inside the module: BLOOM). Parallel blocks (GPT-NeoX, Phi, Falcon, Cohere) have no stream between attention
and MLP; there both outputs together must explain the layer. What cannot be told apart is reported, not guessed.
Assumption: one call of each sub-layer per layer call.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from prune.model.anatomy import Anatomy, is_norm
from prune.model.tracing import stream_of
from prune.wording import Message, message

Source = Literal["module", "norm", "difference"]
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}  # relative residual of an explanation
HALF_TOLERANCE = 0.1  # the stream itself is rounded by 3-17 % of a contribution there
CHECKED_TOKENS = 256  # evenly spaced, on which an explanation is tried


@dataclass(frozen=True)
class Contribution:
    """What one layer adds, for B documents of T tokens.

    Attributes:
        layer: its index.
        resid_pre: [B, T, d] stream before the layer.
        resid_post: [B, T, d] stream after it.
        attn: [B, T, d] float32, None when attention and MLP cannot be told apart.
        mlp: [B, T, d] float32, None likewise.
        parallel: attention and MLP both read resid_pre, so the MLP is measured against it.
    """

    layer: int
    resid_pre: torch.Tensor
    resid_post: torch.Tensor
    attn: torch.Tensor | None
    mlp: torch.Tensor | None
    parallel: bool


@dataclass(frozen=True)
class Rule:
    """How one sub-layer's contribution is read: `scale` times the value at `source`."""

    source: Source
    scale: float = 1.0


@dataclass(frozen=True)
class Layout:
    """How one layer is composed; `reason` says why its sub-layers cannot be told apart, when they cannot."""

    attn: Rule | None = None
    mlp: Rule | None = None
    parallel: bool = False
    reason: Message | None = None


@dataclass
class _Seen:
    """Tensors of one call of one layer."""

    resid_pre: torch.Tensor
    attn_out: torch.Tensor | None = None
    mlp_in: torch.Tensor | None = None
    mlp_out: torch.Tensor | None = None
    norms: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)

    def norm_into(self, tensor: torch.Tensor | None) -> torch.Tensor | None:
        """The input of the norm whose output is `tensor`."""
        return next((i for i, o in self.norms if tensor is not None and o.data_ptr() == tensor.data_ptr()), None)

    def norm_after(self, tensor: torch.Tensor | None) -> torch.Tensor | None:
        """The output of the norm whose input is `tensor`."""
        return next((o for i, o in self.norms if tensor is not None and i.data_ptr() == tensor.data_ptr()), None)


class SublayerTracer:
    """Hooks that hand every layer's `Contribution` to an observer while the model runs.

    Attributes:
        layouts: layer -> layout, decided on the first call of each layer.
        attention_removable: whether attention alone can be left out of every layer exactly; None until it is tried.
    """

    def __init__(self, anatomy: Anatomy) -> None:
        self.anatomy = anatomy
        self.layouts: dict[int, Layout] = {}
        self.attention_removable: bool | None = None

    @contextlib.contextmanager
    def observing(
        self,
        observer: Callable[[Contribution], None],
        mask: torch.Tensor | None = None,
        layers: Iterable[int] | None = None,
    ) -> Iterator[None]:
        """Install the hooks.

        Args:
            observer: called once per layer call, in order.
            mask: [B, T] bool, the real tokens, used to decide layouts; all if None.
            layers: those to watch; all if None.
        """
        with contextlib.ExitStack() as stack:
            for index in range(self.anatomy.num_layers) if layers is None else layers:
                self._watch(index, observer, mask, stack)
            yield

    @contextlib.contextmanager
    def attention_removed(self, index: int) -> Iterator[None]:
        """Attention of layer `index`, whose layout is known, adds nothing to the stream; its MLP is left to follow.

        What is silenced is the value that is added: the module's output, or that of the norm behind it; a module that
        returns the stream with its own output in it returns the stream it was given. The caller checks the effect.
        """
        layout, layer = self.layouts[index], self.anatomy.layers[index]
        attention, now = self.anatomy.attention[index], {}
        assert layout.attn is not None  # callers have checked
        assert attention is not None
        source = layout.attn.source

        def begin(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            now["pre"] = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]

        def silence(_: nn.Module, args: Any, output: Any) -> Any:
            now["out"] = stream_of(output)
            if source == "norm":
                return None
            silent = now["pre"] if source == "difference" else torch.zeros_like(now["out"])
            return type(output)((silent, *output[1:])) if isinstance(output, tuple | list) else silent

        def silence_norm(_: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor | None:
            after_attention = "out" in now and args and args[0].data_ptr() == now["out"].data_ptr()
            return torch.zeros_like(output) if after_attention else None

        with contextlib.ExitStack() as stack:
            stack.callback(layer.register_forward_pre_hook(begin, with_kwargs=True).remove)
            stack.callback(attention.register_forward_hook(silence).remove)
            if source == "norm":
                for name, child in layer.named_children():
                    if is_norm(name, child):
                        stack.callback(child.register_forward_hook(silence_norm).remove)
            yield

    def _watch(
        self, index: int, observer: Callable[[Contribution], None], mask: torch.Tensor | None, stack: Any
    ) -> None:
        layer, seen = self.anatomy.layers[index], {}

        def begin(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            seen["now"] = _Seen(kwargs["hidden_states"] if "hidden_states" in kwargs else args[0])

        def norm(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if "now" in seen and args:
                seen["now"].norms.append((args[0], stream_of(output)))

        def attention(_: nn.Module, args: Any, output: Any) -> None:
            seen["now"].attn_out = stream_of(output)

        def mlp_input(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            seen["now"].mlp_in = args[0] if args else next(iter(kwargs.values()))

        def mlp(_: nn.Module, args: Any, output: Any) -> None:
            seen["now"].mlp_out = stream_of(output).clone()  # Falcon adds attention to it in place

        def end(_: nn.Module, args: Any, output: Any) -> None:
            observer(self._contribution(index, seen.pop("now"), stream_of(output), mask))

        stack.callback(layer.register_forward_pre_hook(begin, with_kwargs=True).remove)
        for name, child in layer.named_children():
            if is_norm(name, child):
                stack.callback(child.register_forward_hook(norm).remove)
        if (module := self.anatomy.attention[index]) is not None:
            stack.callback(module.register_forward_hook(attention).remove)
        if (module := self.anatomy.mlp[index]) is not None:
            stack.callback(module.register_forward_pre_hook(mlp_input, with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(mlp).remove)
        stack.callback(layer.register_forward_hook(end).remove)

    def _contribution(
        self, index: int, seen: _Seen, resid_post: torch.Tensor, mask: torch.Tensor | None
    ) -> Contribution:
        if index not in self.layouts:
            self.layouts[index] = decide_layout(seen, resid_post, mask)
        layout = self.layouts[index]
        attn = mlp = None
        if layout.attn is not None and layout.mlp is not None:
            pre = seen.resid_pre
            mid = None if layout.parallel else _stream_before_mlp(seen)
            attn = _value(layout.attn, seen, seen.attn_out, mid, pre)
            mlp = _value(layout.mlp, seen, seen.mlp_out, resid_post, mid)
        return Contribution(index, seen.resid_pre, resid_post, attn, mlp, layout.parallel)


def decide_layout(seen: _Seen, resid_post: torch.Tensor, mask: torch.Tensor | None) -> Layout:
    """How the layer whose tensors were seen is composed; see the head of this module."""
    if seen.attn_out is None or seen.mlp_in is None or seen.mlp_out is None:
        return Layout(reason=message("apart_single"))
    pre = seen.resid_pre
    mid = _stream_before_mlp(seen)
    if mid.shape != pre.shape:
        return Layout(reason=message("apart_input_shape", shape=list(mid.shape), stream=list(pre.shape)))
    if mid.data_ptr() == pre.data_ptr():
        return _parallel_layout(seen, resid_post, mask)
    attn = _explain(mid, pre, seen.attn_out, seen.norm_after(seen.attn_out), mask)
    mlp = _explain(resid_post, mid, seen.mlp_out, seen.norm_after(seen.mlp_out), mask)
    return Layout(attn, mlp)


def _parallel_layout(seen: _Seen, resid_post: torch.Tensor, mask: torch.Tensor | None) -> Layout:
    assert seen.attn_out is not None  # decide_layout has checked both
    assert seen.mlp_out is not None
    if seen.attn_out.shape != resid_post.shape or seen.mlp_out.shape != resid_post.shape:
        return Layout(parallel=True, reason=message("apart_output_shape"))
    change = _tokens(resid_post, mask) - _tokens(seen.resid_pre, mask)  # [n, d]
    parts = torch.stack([_tokens(seen.attn_out, mask).flatten(), _tokens(seen.mlp_out, mask).flatten()], 1)  # [n·d, 2]
    scales = torch.linalg.lstsq(parts.T @ parts, parts.T @ change.flatten()).solution  # [2]
    if (parts @ scales - change.flatten()).norm() > _allowed(change, resid_post, mask):
        return Layout(parallel=True, reason=message("apart_unexplained"))
    attn, mlp = (Rule("module", _tidy(float(s))) for s in scales)
    return Layout(attn, mlp, parallel=True)


def _explain(
    after: torch.Tensor,
    before: torch.Tensor,
    module: torch.Tensor,
    norm: torch.Tensor | None,
    mask: torch.Tensor | None,
) -> Rule:
    """The first value that, times a constant, equals the change of the stream; the difference itself if none does."""
    change = _tokens(after, mask) - _tokens(before, mask)  # [n, d]
    candidates: list[tuple[Source, torch.Tensor | None]] = [("norm", norm), ("module", module)]
    for source, value in candidates:
        if value is None or value.shape != after.shape:
            continue
        part = _tokens(value, mask)  # [n, d]
        scale = float((part * change).sum() / (part * part).sum().clamp(min=1e-30))
        if (scale * part - change).norm() <= _allowed(change, after, mask):
            return Rule(source, _tidy(scale))
    return Rule("difference")


def _allowed(change: torch.Tensor, after: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """How far an explanation may be from the change of the stream: a share of it, and the rounding of the stream.

    Without the latter, what a half-precision layer adds would be taken from the rounded stream wherever it is small.
    """
    rounding = torch.finfo(after.dtype).eps / 2 * _tokens(after, mask).norm()
    return TOLERANCE.get(after.dtype, HALF_TOLERANCE) * change.norm() + rounding


def _tidy(scale: float) -> float:
    return 1.0 if abs(scale - 1.0) < 1e-2 else scale


def _tokens(tensor: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """[n, d] float64: at most `CHECKED_TOKENS` of the real tokens, evenly spaced from the first."""
    flat = tensor.reshape(-1, tensor.shape[-1])
    if mask is None:
        real = torch.arange(len(flat), device=flat.device)  # [N]
    else:
        real = mask.reshape(-1).nonzero()[:, 0].to(flat.device)  # [N]
    return flat[real[:: max(1, -(-len(real) // CHECKED_TOKENS))]].double()


def _stream_before_mlp(seen: _Seen) -> torch.Tensor:
    normed = seen.norm_into(seen.mlp_in)
    mid = seen.mlp_in if normed is None else normed
    assert mid is not None  # callers have checked mlp_in
    return mid.reshape(seen.resid_pre.shape) if mid.numel() == seen.resid_pre.numel() else mid


def _value(
    rule: Rule, seen: _Seen, module: torch.Tensor | None, after: torch.Tensor | None, before: torch.Tensor | None
) -> torch.Tensor:
    if rule.source == "difference":
        assert after is not None  # only sequential layouts use differences
        assert before is not None
        return after.float() - before.float()
    value = seen.norm_after(module) if rule.source == "norm" else module
    assert value is not None  # the rule was decided on the same hooks
    return value.float() if rule.scale == 1.0 else value.float() * rule.scale
