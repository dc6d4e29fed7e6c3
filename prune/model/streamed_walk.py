"""A clean pass that is made layer by layer, its streams on a shelf.

Assumptions: layers hand each other the stream and nothing else, and are called with tensors, numbers or None; what
breaks them is refused.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from prune.data.domains import Batch
from prune.errors import PruneError
from prune.model.anatomy import Anatomy
from prune.model.shelf import Shelf, ShelvedTensors
from prune.model.streaming import StreamedModel
from prune.model.tracing import Call, LayersStub, Walk, model_inputs, split_call, stream_of


class StreamedWalk(Walk):
    """A clean pass of one batch that is made layer by layer: its streams lie on a shelf.

    `advance` runs one layer; after the last, everything that needs no layer (final norm, head) works as in a `Walk`.
    """

    def __init__(self, streamed: StreamedModel, batch: Batch, shelf: Shelf, number: int, output: Any) -> None:
        """Embed the batch and record what the model calls each layer with.

        Args:
            streamed: the model.
            batch: the batch.
            shelf: keeps the streams and the calls.
            number: of the batch, unique on the shelf.
            output: what a layer returns, for its form only; see `output_form`.

        Raises:
            PruneError: the layers are called with what another returned, or not once each.
        """
        keys = [("stream", number, depth) for depth in range(streamed.anatomy.num_layers + 1)]
        streams = ShelvedTensors(shelf, keys, streamed.device)
        super().__init__(streamed.model, streamed.anatomy, batch.to(streamed.device), streams)
        self._stub.output = output if isinstance(output, tuple | list) else None
        self._shelf, self._number, self._device = shelf, number, streamed.device
        recorder = _Recorder(self.anatomy, self._stub.output)
        with torch.no_grad(), recorder.installed(self.model):
            self.model(**model_inputs(self.model, self.batch, one_logit=True))
        if len(recorder.calls) != self.anatomy.num_layers:
            raise PruneError(
                f"{type(self.model).__name__} called {len(recorder.calls)} layers in one pass where "
                f"{self.anatomy.layers_path} holds {self.anatomy.num_layers}: it cannot be streamed layer by layer"
            )
        shelf.put(("calls", number), recorder.calls)
        shelf.put(("stream", number, 0), recorder.embedded)

    @torch.no_grad()
    def advance(self, index: int) -> None:
        """Run layer `index`, whose weights are in memory, on the clean stream."""
        self._calls = self._shelf.get(("calls", self._number))
        hidden = stream_of(self.call(index, self.resid_pre[index]))
        self._shelf.put(("stream", self._number, index + 1), hidden)
        self.layer_calls += 1
        if index == self.anatomy.num_layers - 1:
            self.check_finite(hidden)

    def rest(self, *, forget: bool = False) -> None:
        """Leave what the layers are called with on the shelf until the next one; or forget it, after the last."""
        self._calls = []
        if forget:
            self._shelf.drop(("calls", self._number))

    def device_of(self, index: int) -> torch.device:
        """Where layer `index` runs."""
        return self._device


def output_form(streamed: StreamedModel, batch: Batch) -> Any:
    """What layer 0, whose weights are in memory, returns for a batch: a tensor, or a tuple that starts with one."""
    found: list[Any] = []

    def stop(_: nn.Module, args: Any, output: Any) -> None:
        found.append(output)
        raise _Seen

    hook = streamed.anatomy.layers[0].register_forward_hook(stop)
    try:
        with torch.no_grad(), contextlib.suppress(_Seen):
            streamed.model(**model_inputs(streamed.model, batch.to(streamed.device), one_logit=True))
    finally:
        hook.remove()
    return found[0]


class _Seen(Exception):  # noqa: N818 (a way out of the forward pass, not an error)
    """Ends a forward pass whose first layer has been seen."""


class _Recorder:
    """Runs a model whose layers all hand their input through, and notes how each was called.

    Attributes:
        calls: one entry a layer.
        embedded: [B, T, d], the stream before layer 0.
    """

    def __init__(self, anatomy: Anatomy, form: tuple[Any, ...] | list[Any] | None) -> None:
        self.anatomy, self.form = anatomy, form
        self.calls: list[Call] = []
        self.embedded = torch.empty(0)

    @contextlib.contextmanager
    def installed(self, model: nn.Module) -> Iterator[None]:
        parent_path, _, name = self.anatomy.layers_path.rpartition(".")
        parent = model.get_submodule(parent_path)
        setattr(parent, name, nn.ModuleList([_Passing(self, layer) for layer in self.anatomy.layers]))
        try:
            yield
        finally:
            setattr(parent, name, self.anatomy.layers)

    def note(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        hidden, call = split_call(args, kwargs)
        if not self.calls:
            self.embedded = hidden.detach()
        for value in (*call[0], *call[1].values()):
            self._check_argument(value)
        self.calls.append(call)
        return hidden if self.form is None else type(self.form)((hidden, *self.form[1:]))

    def _check_argument(self, value: Any) -> None:
        """Refuse what another layer returned, and containers in which it might come unseen."""
        if isinstance(value, tuple | list):
            for item in value:
                self._check_argument(item)
            return
        plain = value is None or isinstance(value, torch.Tensor | int | float | bool | str)
        if not plain or (value is not None and any(value is item for item in (self.form or ())[1:])):
            raise PruneError(
                f"layers are called with a {type(value).__name__} in which they hand each other more than the "
                "residual stream, so they cannot be streamed; analyze the model without --stream"
            )


class _Passing(LayersStub):
    """Stands in for one layer."""

    def __init__(self, recorder: _Recorder, real: nn.Module) -> None:
        super().__init__(real)
        self.__dict__["recorder"] = recorder

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.__dict__["recorder"].note(args, kwargs)
