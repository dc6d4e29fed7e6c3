"""Layers without their attention or without their MLP: what is left adds exactly what it added before.

A silenced sub-layer is replaced by a module that returns zeros, so that it takes no time and holds no weights; where
the layer adds something of its own around it (BLOOM adds the stream inside the module, Phi has no module for its MLP)
its output projections are set to zero instead. Which of the two is right is never assumed: with attention and MLP both
silenced a layer must return its input to the bit, on a few tokens, or the family is refused.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import nn

from prune.data.domains import Batch, Document, batches
from prune.errors import PruneError
from prune.model.anatomy import Anatomy, find_anatomy
from prune.model.layer_list import text_config
from prune.model.tracing import RecordedWalk, stream_of

Part = Literal["attn", "mlp"]
PARTS: tuple[Part, Part] = ("attn", "mlp")
Undo = Callable[[], None]
Way = Literal["module", "zero"]

OUTPUT = re.compile(
    r"(^|\.)(o_proj|out_proj|c_proj|dense|wo|o_b_proj|output_linear|down_proj|down_proj_bias|fc2|fc_out|dense_4h_to_h|w2)"
    r"(\.|$)"
)
"""Names of the projections back to the residual stream."""
PROBE = Document(tuple(range(4, 12)))


class Silent(nn.Module):
    """Stands where attention or an MLP stood, and adds nothing.

    An attention's place in the key-value cache is filled with one number a token, since generation asks the cache of
    some layer how long it is.

    Attributes:
        part: of which sub-layer it stands.
        returns: length of the tuple that the module returned, None where it was a tensor.
    """

    def __init__(self, real: nn.Module, part: Part, returns: int | None) -> None:
        super().__init__()
        plain = {k: v for k, v in vars(real).items() if isinstance(v, bool | int | float | str) and k != "training"}
        for name, value in plain.items():  # layer_idx, is_sliding: layers read them
            setattr(self, name, value)
        self.part = part
        self.returns = returns

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]  # [B, T, d]
        self._count_tokens(hidden, (*args, *kwargs.values()))
        zeros = torch.zeros_like(hidden)
        return zeros if self.returns is None else (zeros, *[None] * (self.returns - 1))

    def _count_tokens(self, hidden: torch.Tensor, given: Sequence[Any]) -> None:
        from transformers.cache_utils import Cache, CacheLayerMixin

        index = vars(self).get("layer_idx")
        cache = next((value for value in given if isinstance(value, Cache)), None)
        if cache is None or index is None or hidden.dim() != 3:
            return
        if index >= len(cache.layers) or isinstance(cache.layers[index], CacheLayerMixin):
            one = hidden.new_zeros(hidden.shape[0], 1, hidden.shape[1], 1)  # [B, 1, T, 1]
            cache.update(one, one, index)


def first_silent(layers: Sequence[nn.Module]) -> int:
    """The first layer that lacks a sub-layer; their number where none does."""
    lacking = (i for i, layer in enumerate(layers) if any(isinstance(child, Silent) for child in layer.children()))
    return next(lacking, len(layers))


class Silencer:
    """Silences sub-layers of one model, one at a time or for good.

    Attributes:
        anatomy: of the model.
    """

    def __init__(self, model: nn.Module, anatomy: Anatomy | None = None) -> None:
        """Run the probe.

        Raises:
            PruneError: layers share keys and values, or are not called once each.
        """
        self.anatomy = anatomy or find_anatomy(model)
        if getattr(text_config(model), "num_kv_shared_layers", 0):
            raise PruneError(
                f"{type(model).__name__}: layers share keys and values, so no attention can go alone; use whole layers"
            )
        self._name = type(model).__name__
        self._returns: dict[tuple[int, Part], int | None] = {}
        self._ways: dict[int, tuple[Way, Way]] = {}
        vocabulary = self.anatomy.embedding.weight.shape[0]
        probe = Document(tuple(token % vocabulary for token in PROBE.input_ids))
        (batch,) = batches((probe,), 1, 0)
        with self._noting_returns():
            self._walk = RecordedWalk(model, self.anatomy, batch)

    def share(self, layer: int, part: Part) -> float:
        """A sub-layer's share of its layer's parameters."""
        total = sum(p.numel() for p in self.anatomy.layers[layer].parameters())
        attention = self.anatomy.attention[layer]
        own = sum(p.numel() for p in attention.parameters()) if attention is not None else 0
        share = own / total if total else 0.5
        return share if part == "attn" else 1 - share

    def silence(self, layer: int, part: Part) -> Undo:
        """Silence one sub-layer; returns what puts it back, to the bit.

        Raises:
            PruneError: attention and MLP of this layer cannot be told apart.
        """
        way = self._way(layer)[PARTS.index(part)]
        return self._apply(layer, part, way)

    def check(self, layer: int) -> None:
        """Find out how this layer's sub-layers are silenced.

        Raises:
            PruneError: they cannot be told apart.
        """
        self._way(layer)

    @contextlib.contextmanager
    def silenced(self, layer: int, part: Part) -> Iterator[None]:
        """`silence` for the duration of a `with` block."""
        undo = self.silence(layer, part)
        try:
            yield
        finally:
            undo()

    def _way(self, layer: int) -> tuple[Way, Way]:
        """How attention and MLP of a layer are silenced: the first ways with which nothing is added."""
        if layer not in self._ways:
            ways: list[Way] = ["module", "zero"]
            tried = list(itertools.product(ways, ways))
            found = next((way for way in tried if self._adds_nothing(layer, way)), None)
            if found is None:
                raise PruneError(
                    f"{self._name}: layer {layer} would still add to the stream without its attention and its MLP (a"
                    " bias or norm behind them, or another path?), so they cannot be told apart; use whole layers"
                )
            self._ways[layer] = found
        return self._ways[layer]

    def _adds_nothing(self, layer: int, ways: tuple[Way, Way]) -> bool:
        hidden = self._walk.resid_pre[layer]  # [1, T, d]
        with contextlib.ExitStack() as stack:
            try:
                for part, way in zip(PARTS, ways, strict=True):
                    stack.callback(self._apply(layer, part, way))
                with torch.no_grad():
                    return torch.equal(stream_of(self._walk.call(layer, hidden)), hidden)
            except (PruneError, RuntimeError, TypeError, ValueError, AttributeError, KeyError, IndexError):
                return False

    def _apply(self, layer: int, part: Part, way: Way) -> Undo:
        return self._replace(layer, part) if way == "module" else self._zero(layer, part)

    def _replace(self, layer: int, part: Part) -> Undo:
        owner = self.anatomy.layers[layer]
        if any(isinstance(child, Silent) and child.part == part for child in owner.children()):
            return lambda: None  # it is silent already
        module = (self.anatomy.attention if part == "attn" else self.anatomy.mlp)[layer]
        name = next((name for name, child in owner.named_children() if child is module), None)
        if module is None or name is None:
            raise PruneError(f"layer {layer}: no {part} found in {type(owner).__name__}")
        setattr(owner, name, Silent(module, part, self._returns[layer, part]))
        return lambda: setattr(owner, name, module)

    def _zero(self, layer: int, part: Part) -> Undo:
        saved = [(parameter, parameter.data) for parameter in _projections(self.anatomy, part, layer)]
        for parameter, data in saved:
            parameter.data = torch.zeros_like(data)

        def undo() -> None:
            for parameter, data in saved:
                parameter.data = data

        return undo

    @contextlib.contextmanager
    def _noting_returns(self) -> Iterator[None]:
        """Note for each sub-layer what it returned."""

        def listen(layer: int, part: Part) -> Any:
            def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
                self._returns[layer, part] = len(output) if isinstance(output, tuple | list) else None

            return after

        with contextlib.ExitStack() as stack:
            for part, modules in zip(PARTS, (self.anatomy.attention, self.anatomy.mlp), strict=True):
                for layer, module in enumerate(modules):
                    self._returns[layer, part] = None
                    if module is not None:
                        stack.callback(module.register_forward_hook(listen(layer, part)).remove)
            yield


def _projections(anatomy: Anatomy, part: Part, index: int) -> list[nn.Parameter]:
    """Weights and biases of the output projections of one sub-layer.

    Raises:
        PruneError: the sub-layer or its projection is not found.
    """
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


class PartsWalk(RecordedWalk):
    """A clean pass whose layers can be run with attention or MLP alone.

    A step is a layer's number for the whole layer, plus `ATTENTION_ONLY` or `MLP_ONLY` for a part of it.
    """

    def __init__(self, model: nn.Module, anatomy: Anatomy, batch: Batch, silencer: Silencer) -> None:
        super().__init__(model, anatomy, batch)
        self._silencer = silencer

    @torch.no_grad()
    def run(self, hidden: torch.Tensor, layers: Sequence[int]) -> torch.Tensor:
        """Apply steps in the order given; `layer_calls` counts a part as its share of the layer's parameters."""
        for step in layers:
            kind, layer = divmod(step, ATTENTION_ONLY)
            if kind == 0:
                hidden = super().run(hidden, [layer])
                continue
            left: Part = "attn" if kind == 1 else "mlp"
            with self._silencer.silenced(layer, "mlp" if left == "attn" else "attn"):
                hidden = stream_of(self.call(layer, hidden, hidden.shape[0] // self.batch.input_ids.shape[0]))
            self.layer_calls += self._silencer.share(layer, left)
        return hidden


ATTENTION_ONLY = 1_000_000
MLP_ONLY = 2 * ATTENTION_ONLY
