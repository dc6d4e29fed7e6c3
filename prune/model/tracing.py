"""One batch's clean forward pass, restartable at any layer.

A `Walk` runs the model once, keeps the residual stream before every layer and what each layer was called with, and
can then run any sequence of layers from any stream, with the model's own final norm, head and soft-cap behind it.
Assumptions: a layer takes the stream as its first argument (or as `hidden_states`) and returns it first; layers carry
no state from one call to the next when `use_cache=False`. Nothing here tracks gradients.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from prune.data.domains import Batch
from prune.errors import PruneError
from prune.model.anatomy import Anatomy

LOGITS_PER_CHUNK = 1 << 24  # 64 MiB of float32 logits at a time

Call = tuple[tuple[Any, ...], dict[str, Any]]


def stream_of(output: Any) -> torch.Tensor:
    """The residual stream in what a layer returned."""
    return output[0] if isinstance(output, tuple | list) else output


def split_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[torch.Tensor, Call]:
    """The stream that a layer was called with, and the call without it."""
    kept = {key: value for key, value in kwargs.items() if key != "hidden_states"}
    if "hidden_states" in kwargs:
        return kwargs["hidden_states"], ((None, *args[1:]) if args else (), {**kept, "hidden_states": None})
    return args[0], ((None, *args[1:]), kept)


def model_inputs(model: nn.Module, batch: Batch, *, one_logit: bool = False) -> dict[str, Any]:
    """Keyword arguments of a plain forward pass over a batch.

    Position ids are given only for left-padded rows, where the model's own default (0, 1, ...) would count padding.

    Args:
        one_logit: predictions are not wanted: at the last position only, where the model can do that.
    """
    parameters = inspect.signature(model.forward).parameters
    inputs: dict[str, Any] = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "use_cache": False}
    left_padded = not bool(batch.attention_mask[:, 0].all())
    if left_padded and "position_ids" in parameters:
        inputs["position_ids"] = (batch.attention_mask.cumsum(-1) - 1).clamp(min=0)  # [B, T]
    if one_logit and "logits_to_keep" in parameters:
        inputs["logits_to_keep"] = 1
    return inputs


class Walk:
    """A clean pass of one batch of B documents, T tokens, through L layers of width d, and what can be asked of it.

    `RecordedWalk` makes the pass in one go, `prune.model.streamed_walk` layer by layer.

    Attributes:
        batch: the batch, on the model's device.
        resid_pre: L + 1 tensors [B, T, d]: the stream before each layer; the last is the stream after the last layer,
            before the final norm.
        layer_calls: layer evaluations so far, in units of one layer over one batch, the clean run included.
    """

    def __init__(self, model: nn.Module, anatomy: Anatomy, batch: Batch, resid_pre: Sequence[torch.Tensor]) -> None:
        self.model = model
        self.anatomy = anatomy
        self.batch = batch
        self.resid_pre = resid_pre
        self.layer_calls: float = 0
        self._calls: list[Call] = []
        self._stub = LayersStub(anatomy.layers[0])

    def check_finite(self, hidden: torch.Tensor) -> None:
        """Refuse a stream [B, T, d] that is not finite at the real tokens.

        Raises:
            PruneError: it is not.
        """
        if not bool(torch.isfinite(hidden[self.batch.attention_mask.bool()]).all()):
            kind = type(self.model).__name__
            raise PruneError(f"{kind} returns non-finite values: check its weights and --dtype")

    @torch.no_grad()
    def run(self, hidden: torch.Tensor, layers: Sequence[int]) -> torch.Tensor:
        """Apply layers in the order given, each called as in the clean run.

        Args:
            hidden: [K·B, T, d], K >= 1 variants of the batch's stream, the batch's rows in order within each.
            layers: source indices; any order, repeats allowed.

        Returns:
            [K·B, T, d] on the device of the last layer applied.
        """
        copies = hidden.shape[0] // self.batch.input_ids.shape[0]
        for index in layers:
            hidden = stream_of(self.call(index, hidden, copies))
            self.layer_calls += copies
        return hidden

    def call(self, index: int, hidden: torch.Tensor, copies: int = 1) -> Any:
        """What layer `index` returns for `hidden`, with the clean run's other arguments repeated `copies` times."""
        args, kwargs = self._calls[index]
        if copies > 1:
            args, kwargs = self._repeat(args, copies), self._repeat(kwargs, copies)
        device = self.device_of(index)
        if "hidden_states" in kwargs:
            return self.anatomy.layers[index](*args, **{**kwargs, "hidden_states": hidden.to(device)})
        return self.anatomy.layers[index](hidden.to(device), *args[1:], **kwargs)

    def device_of(self, index: int) -> torch.device:
        """Where layer `index` runs."""
        return self.resid_pre[index].device

    @torch.no_grad()
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """`differentiable_logits` without gradients."""
        return self.differentiable_logits(hidden)

    def differentiable_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Final norm, head, scale and soft-cap as the model applies them.

        The model's own forward runs with its layer list replaced by one that returns `hidden`.

        Args:
            hidden: [..., d], a stream after the last layer.

        Returns:
            [..., V] in the model's dtype.
        """
        rows = hidden.reshape(-1, 1, hidden.shape[-1])  # [N, 1, d]
        ids = torch.zeros(rows.shape[:2], dtype=torch.long, device=self.batch.input_ids.device)  # [N, 1]
        with self._stub.returning(self.model, self.anatomy, rows.to(self.resid_pre[-1].device)):
            logits = self.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits  # [N, 1, V]
        return logits.reshape(*hidden.shape[:-1], logits.shape[-1])

    def target_logits(self, hidden: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Float32 logits at every counted position, a chunk at a time.

        Args:
            hidden: [B, T, d], a stream after the last layer.

        Yields:
            (row [n], target [n], logits [n, V]): the batch row, the token that follows, and its prediction.
        """
        row, position = self.counted()  # [N], [N]
        chunk = max(1, LOGITS_PER_CHUNK // self.vocabulary)
        for begin in range(0, len(row), chunk):
            r, p = row[begin : begin + chunk], position[begin : begin + chunk]  # [n], [n]
            selected = hidden[r.to(hidden.device), p.to(hidden.device)]  # [n, d]
            logits = self.logits(selected).float()  # [n, V]
            yield r.to(logits.device), self.batch.input_ids[r, p + 1].to(logits.device), logits

    def counted(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows and positions [N] whose next token is counted and that are no padding themselves."""
        mask = self.batch.loss_mask[:, 1:] & self.batch.attention_mask[:, :-1].bool()  # [B, T-1]
        row, position = mask.nonzero(as_tuple=True)
        return row, position

    @torch.no_grad()
    def nll(self, hidden: torch.Tensor) -> torch.Tensor:
        """Summed negative log-likelihood (nats) of the counted tokens of each document.

        Args:
            hidden: [B, T, d], a stream after the last layer.

        Returns:
            [B] float64, on CPU.
        """
        total = torch.zeros(self.batch.input_ids.shape[0], dtype=torch.float64)  # [B]
        for row, target, logits in self.target_logits(hidden):
            loss = torch.nn.functional.cross_entropy(logits, target, reduction="none")  # [n]
            total.index_add_(0, row.cpu(), loss.double().cpu())
        return total

    @torch.no_grad()
    def kl(self, hidden: torch.Tensor) -> torch.Tensor:
        """Summed KL(p ‖ p') in nats over the counted positions of each document, p of the clean run, p' of `hidden`.

        Args:
            hidden: [B, T, d], a stream after the last layer.

        Returns:
            [B] float64, on CPU.
        """
        total = torch.zeros(self.batch.input_ids.shape[0], dtype=torch.float64)  # [B]
        pairs = zip(self.target_logits(self.resid_pre[-1]), self.target_logits(hidden), strict=True)
        for (row, _, clean), (_, _, logits) in pairs:
            log_p, log_q = clean.log_softmax(-1), logits.log_softmax(-1)  # [n, V]
            divergence = (log_p.exp() * (log_p - log_q)).sum(-1)  # [n]
            total.index_add_(0, row.cpu(), divergence.double().cpu())
        return total

    @torch.no_grad()
    def missed(self, hidden: torch.Tensor) -> torch.Tensor:
        """Whether some counted token of a document is not the likeliest (of equal ones the lowest id is taken).

        Args:
            hidden: [B, T, d], a stream after the last layer.

        Returns:
            [B] float64, 0 or 1, on CPU; NaN where the best logit is not finite, which an argmax would hide.
        """
        misses = torch.zeros(self.batch.input_ids.shape[0], dtype=torch.float64)  # [B]
        for row, target, logits in self.target_logits(hidden):
            missed = logits.argmax(-1).ne(target).double()  # [n]
            missed[~logits.amax(-1).isfinite()] = torch.nan
            misses.index_add_(0, row.cpu(), missed.cpu())
        return misses.clamp(max=1)

    @property
    def vocabulary(self) -> int:
        """Number of output classes V."""
        return int(self.anatomy.head.weight.shape[0])

    def _repeat(self, value: Any, copies: int) -> Any:
        """Repeat whatever has the batch as its first axis; broadcastable tensors stay as they are."""
        if isinstance(value, tuple | list):
            return type(value)(self._repeat(item, copies) for item in value)
        if isinstance(value, dict):
            return {key: self._repeat(item, copies) for key, item in value.items()}
        rows = self.batch.input_ids.shape[0]
        if isinstance(value, torch.Tensor) and value.dim() > 1 and value.shape[0] > 1 and value.shape[0] % rows == 0:
            return value.repeat(copies, *[1] * (value.dim() - 1))  # [K·B, ...]; ALiBi: [K·B·heads, ...]
        return value


class RecordedWalk(Walk):
    """A clean forward pass whose streams are kept in memory."""

    def __init__(self, model: nn.Module, anatomy: Anatomy, batch: Batch) -> None:
        """Run the clean pass.

        Raises:
            PruneError: the model gives non-finite values, or its layers were not called once each in order.
        """
        streams: list[torch.Tensor] = []
        super().__init__(model, anatomy, batch.to(anatomy.device), streams)
        with torch.no_grad(), self._recording(streams):
            model(**model_inputs(model, self.batch, one_logit=True))
        if len(self._calls) != anatomy.num_layers:
            raise PruneError(
                f"{type(model).__name__} called {len(self._calls)} layers in one pass where {anatomy.layers_path} "
                f"holds {anatomy.num_layers}: such a model cannot be analysed layer by layer"
            )
        self.check_finite(streams[-1])

    @contextlib.contextmanager
    def _recording(self, streams: list[torch.Tensor]) -> Iterator[None]:
        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            hidden, call = split_call(args, kwargs)
            streams.append(hidden.detach())
            self._calls.append(call)
            self.layer_calls += 1

        def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            self._stub.output = output if isinstance(output, tuple | list) else None
            self._last = stream_of(output).detach()

        with contextlib.ExitStack() as stack:
            for layer in self.anatomy.layers:
                stack.callback(layer.register_forward_pre_hook(before, with_kwargs=True).remove)
            stack.callback(self.anatomy.layers[-1].register_forward_hook(after).remove)
            yield
        streams.append(self._last)


class LayersStub(nn.Module):
    """Stands in for the whole layer list: returns a given stream; everything else is asked of a real layer."""

    def __init__(self, real: nn.Module) -> None:
        super().__init__()
        self.__dict__["real"] = real
        self.output: tuple[Any, ...] | list[Any] | None = None
        self.hidden: torch.Tensor | None = None

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["real"], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.output is None:
            return self.hidden
        return type(self.output)((self.hidden, *self.output[1:]))

    @contextlib.contextmanager
    def returning(self, model: nn.Module, anatomy: Anatomy, hidden: torch.Tensor) -> Iterator[None]:
        parent_path, _, name = anatomy.layers_path.rpartition(".")
        parent = model.get_submodule(parent_path)
        self.hidden = hidden
        setattr(parent, name, nn.ModuleList([self]))
        try:
            yield
        finally:
            setattr(parent, name, anatomy.layers)
            self.hidden = None
