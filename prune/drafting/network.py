"""A draft made of the original's own layers, in memory: trunk and everything outside the layers are shared with it.

Only the last layers (and the final norm, where asked for) have tensors of their own. So the trunk's stream is the
original's to the bit, and training starts from what the original's layers give. Assumption, tried out on every pair: a
layer hands on nothing but the stream.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from prune.drafting.rounding import DraftType, matrices, rounded
from prune.errors import PruneError
from prune.model.anatomy import Anatomy, find_anatomy, is_norm
from prune.model.tracing import LayersStub, stream_of
from prune.surgery.loaded import drop_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass
class Draft:
    """A draft of n layers.

    Attributes:
        model: shares storage with the original, but for `trained`.
        keep: source index of each layer, sorted.
        trunk: first layers that are the original's first, and frozen.
        trained: names of its own parameters.
        rounding: blocks in which its file will hold it; the frozen weights have their rounded values already.
    """

    model: PreTrainedModel
    keep: tuple[int, ...]
    trunk: int
    trained: tuple[str, ...]
    rounding: DraftType | None = None

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """What is trained, by name."""
        own = dict(self.model.named_parameters())
        return {name: own[name] for name in self.trained}

    @contextlib.contextmanager
    def as_served(self) -> Iterator[None]:
        """Within the block the trained matrices have the values of the file.

        A gradient taken there is applied to the unrounded ones: the straight-through estimator (Bengio et al. 2013,
        arXiv 1308.3432).
        """
        own = set(self.trained) if self.rounding else set()
        kept = [(p, p.data) for name, p in matrices(self.model).items() if name in own]
        try:
            for parameter, data in kept:
                assert self.rounding
                parameter.data = rounded(data, self.rounding)
            yield
        finally:
            for parameter, data in kept:
                parameter.data = data


def build(
    original: PreTrainedModel,
    keep: Sequence[int],
    *,
    train_layers: int,
    train_norm: bool,
    rounding: DraftType | None = None,
) -> Draft:
    """A draft of some layers of a loaded model, which stays as it is.

    Raises:
        PruneError: the family cannot be cut in memory, or the layers kept leave no shared trunk.
    """
    memo = {id(p): nn.Parameter(p.data, requires_grad=False) for p in original.parameters()}
    model = copy.deepcopy(original, memo)
    if others := _others(original, keep):
        model = drop_layers(model, others)
    anatomy = find_anatomy(model)
    first = len(keep) - min(train_layers, len(keep) - 1)
    trunk = next((i for i in range(first) if keep[i] != i), first)
    if trunk == 0:
        raise PruneError(f"layers {list(keep)}: a draft begins with the original's layer 0, whose stream it shares")
    modules: list[nn.Module] = list(anatomy.layers[first:])
    if train_norm:
        modules += [m for n, m in _parent(model, anatomy).named_children() if is_norm(n, m)]
    for module in modules:
        for part in module.modules():
            for name, parameter in list(part.named_parameters(recurse=False)):
                setattr(part, name, nn.Parameter(parameter.detach().clone()))
    owned = {id(p) for module in modules for p in module.parameters()}
    trained = tuple(name for name, p in model.named_parameters() if id(p) in owned)
    if rounding:
        frozen = {id(p): p for name, p in matrices(model).items() if name not in set(trained)}
        values = {key: nn.Parameter(rounded(p.data, rounding), requires_grad=False) for key, p in frozen.items()}
        for part in model.modules():
            for name, parameter in list(part.named_parameters(recurse=False)):
                if id(parameter) in values:
                    setattr(part, name, values[id(parameter)])
    return Draft(model.eval(), tuple(keep), trunk, trained, rounding)


def _others(original: nn.Module, keep: Sequence[int]) -> list[int]:
    depth = find_anatomy(original).num_layers
    return [i for i in range(depth) if i not in set(keep)]


def _parent(model: nn.Module, anatomy: Anatomy) -> nn.Module:
    return model.get_submodule(anatomy.layers_path.rpartition(".")[0])


class Network:
    """A model that can be entered after any of its layers, and whose head can be run on chosen positions only."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.anatomy = model, find_anatomy(model)
        self._stub = LayersStub(self.anatomy.layers[0])
        with torch.no_grad(), self._watched() as outputs:
            model(input_ids=torch.zeros(1, 2, dtype=torch.long, device=self.device), use_cache=False)
        if len(outputs) != self.anatomy.num_layers:
            raise PruneError(f"{type(model).__name__} does not call each of its layers once: it cannot be a draft here")
        self._like = outputs[0] if isinstance(outputs[0], tuple | list) else None
        self._stub.output = outputs[-1] if isinstance(outputs[-1], tuple | list) else None

    @property
    def device(self) -> torch.device:
        return self.anatomy.embedding.weight.device  # type: ignore[return-value]

    def streams(self, ids: torch.Tensor, depths: Sequence[int]) -> dict[int, torch.Tensor]:
        """The stream [B, T, d] after the first n layers, for each n; ids [B, T], right-padded."""
        with self._watched() as outputs:
            self._run(ids)
        return {depth: stream_of(outputs[depth - 1]) for depth in depths}

    def continued(self, ids: torch.Tensor, hidden: torch.Tensor, trunk: int) -> torch.Tensor:
        """The stream [B, T, d] after the last layer, entered with `hidden` [B, T, d] behind the trunk."""
        output = hidden if self._like is None else type(self._like)((hidden, *self._like[1:]))
        layers = self.anatomy.layers
        with self._watched(last_only=True) as outputs, contextlib.ExitStack() as stack:
            for layer in layers[:trunk]:
                layer.forward = lambda *_, **__: output  # type: ignore[method-assign]
                stack.callback(vars(layer).pop, "forward", None)
            self._run(ids)
        return stream_of(outputs[-1])

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Final norm, head, scale and soft-cap of the model itself: [N, d] -> [N, V], float32."""
        ids = torch.zeros(len(hidden), 1, dtype=torch.long, device=hidden.device)  # [N, 1]
        with self._stub.returning(self.model, self.anatomy, hidden.unsqueeze(1)):
            found: torch.Tensor = self.model(input_ids=ids, use_cache=False).logits  # [N, 1, V]
        return found[:, 0].float()

    def _run(self, ids: torch.Tensor) -> None:
        # Right padding is never seen by what stands before it, so no mask is needed.
        import inspect

        one = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(self.model.forward).parameters else {}
        self.model(input_ids=ids, use_cache=False, **one)

    @contextlib.contextmanager
    def _watched(self, last_only: bool = False) -> Iterator[list[Any]]:
        outputs: list[Any] = []
        with contextlib.ExitStack() as stack:
            for layer in self.anatomy.layers[-1:] if last_only else self.anatomy.layers:
                stack.callback(layer.register_forward_hook(lambda _, __, output: outputs.append(output)).remove)
            yield outputs


@torch.no_grad()
def require_shared(original: PreTrainedModel, draft: Draft) -> None:
    """Try out that a draft entered with the original's stream gives what it gives by itself.

    Raises:
        PruneError: it does not: its layers hand on more than the stream.
    """
    theirs, ours = Network(original), Network(draft.model)
    vocabulary = theirs.anatomy.embedding.weight.shape[0]
    ids = torch.randint(vocabulary, (2, 9), generator=torch.Generator().manual_seed(0)).to(theirs.device)  # [2, 9]
    whole = ours.streams(ids, [len(draft.keep)])[len(draft.keep)]  # [2, 9, d]
    entered = ours.continued(ids, theirs.streams(ids, [draft.trunk])[draft.trunk], draft.trunk)  # [2, 9, d]
    if not torch.allclose(whole, entered, rtol=1e-4, atol=1e-4 * float(whole.abs().max())):
        kind = type(original).__name__
        raise PruneError(f"{kind}: its layers hand on more than the residual stream: no draft can share its first ones")
