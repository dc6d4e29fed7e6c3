"""What a cut must equal, written down a second time: nothing of `prune` is imported here.

In the original model, as the stock loader reads it, the `forward` of each removed layer still runs, but on a copy, and
only to learn in which form the layer answers; what it returns is its own input. Runs in float32 with eager attention.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

CACHE_TOLERANCE = 1e-2
"""In standard deviations: scans in chunks round otherwise than step by step (1e-3 seen); a wrong cache is off by 1."""
NEW_TOKENS = 3


def load(directory: Path) -> Any:
    """By the class that it names, weights in memory of their own, so that equal models equal bits."""
    names = json.loads((directory / "config.json").read_text())["architectures"]
    kind = getattr(transformers, names[0])
    model = kind.from_pretrained(directory, attn_implementation="eager", dtype=torch.float32, local_files_only=True)
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return model.eval()


def layer_list(model: nn.Module, depth: int) -> nn.ModuleList:
    """The decoder's layers: of the lists as long as the model is deep, the outermost with most weights."""
    lists = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) == depth]
    return min(lists, key=lambda item: (item[0].count("."), -sum(p.numel() for p in item[1].parameters())))[1]


def logits(model: Any, ids: torch.Tensor, depth: int = 0, passed: Sequence[int] = ()) -> torch.Tensor:
    """[B, T, V] without a cache, the layers in `passed` of all `depth` handing their input through."""
    with torch.no_grad(), handing_through(layer_list(model, depth) if passed else nn.ModuleList(), passed):
        return model(input_ids=ids, use_cache=False).logits


@contextlib.contextmanager
def handing_through(layers: nn.ModuleList, passed: Sequence[int]) -> Iterator[None]:
    """Within this, the layers in `passed` change nothing."""
    for index in passed:
        layers[index].forward = handed_through(layers[index].forward)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for index in passed:
            del layers[index].forward


def handed_through(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A layer's forward that returns the stream it was given, and of anything else the argument that it continues."""

    def patched(*args: Any, **kwargs: Any) -> Any:
        stream = args[0] if args else kwargs["hidden_states"]
        given = stream.clone()  # a layer may add to its input in place
        answer = forward(*args, **kwargs)
        stream.copy_(given)
        if not isinstance(answer, tuple | list):
            return stream
        others = [v for v in (*args[1:], *kwargs.values()) if isinstance(v, torch.Tensor) and v is not stream]
        return type(answer)([stream, *(continued(part, others) for part in answer[1:])])

    return patched


def continued(part: Any, arguments: Sequence[torch.Tensor]) -> Any:
    """The argument of the same form as a further output; the output itself where the layer takes no such thing."""
    same = (a for a in arguments if isinstance(part, torch.Tensor) and (a.shape, a.dtype) == (part.shape, part.dtype))
    return next(same, part)


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest absolute difference in standard deviations of what was expected; infinite where that is no number."""
    gap = float((found - expected).abs().max() / expected.std())
    return gap if gap == gap else float("inf")


def cache_error(model: Any, ids: torch.Tensor) -> float:
    """Greedy generation step by step with a cache, against one pass over what came out; inf on failure."""
    settings = {"do_sample": False, "eos_token_id": None, "output_logits": True, "return_dict_in_generate": True}
    with torch.no_grad():
        try:
            made = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, **settings)
        except (ValueError, RuntimeError, IndexError, AttributeError, KeyError, TypeError):
            return float("inf")  # how a broken cache shows, in families that check it at all
        whole = model(input_ids=made.sequences, use_cache=False).logits[:, ids.shape[1] - 1 : -1]  # [B, NEW_TOKENS, V]
    return difference(torch.stack(made.logits, dim=1), whole)
