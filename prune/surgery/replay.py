"""What a cut must equal, by running it: the original with the removed layers passed through.

The definition in code, independent of how a cut is made: in the original model, as the stock loader reads it, the
forward of each removed layer returns what it was given. Used where no table and no signature can decide, for families
that were never tried: arithmetic inside `forward` that depends on the depth shows only here. Runs in float32, one model
at a time. Assumption: a layer takes the stream first (or as `hidden_states`) and returns it first; whatever else it
returns is handed on from its inputs where one has the same form.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.checkpoint.depth_fields import text_part
from prune.checkpoint.directory import CONFIG, read_json
from prune.errors import PruneError
from prune.surgery.signature import model_class

if TYPE_CHECKING:
    import torch

TOLERANCE = 1e-4
"""Largest logit difference that passes, in standard deviations of the logits; rounding is near 1e-6."""
CACHE_TOLERANCE = 1e-2
"""Likewise with a cache: scans in chunks round differently from step by step (1e-3 seen); a wrong cache is off by 1."""
LENGTH, NEW_TOKENS = 24, 3


def check_replay(source: Path, result: Path, keep: Sequence[int], *, trust_remote_code: bool = False) -> None:
    """Compare logits, and cached against uncached generation, of a cut checkpoint with the original's.

    Raises:
        PruneError: they differ, or one of the two cannot be run here.
    """
    from prune.model.layer_list import find_layer_list

    original = load_float32(source, trust_remote_code)
    ids = sample_ids(read_json(source / CONFIG))
    depth = len(find_layer_list(original)[1])
    try:
        expected = logits(original, ids, [index for index in range(depth) if index not in set(keep)])
        had_cache = cache_error(original, ids) <= CACHE_TOLERANCE
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise PruneError(f"{source.name}: an untried family whose logits cannot be replayed: {error}") from error
    del original
    gc.collect()
    cut = load_float32(result, trust_remote_code)
    gap = difference(logits(cut, ids), expected)
    if not gap <= TOLERANCE:
        raise PruneError(f"logits differ by {gap:.1e} standard deviations from the original with these layers skipped")
    if had_cache and not cache_error(cut, ids) <= CACHE_TOLERANCE:
        raise PruneError("generation with a cache differs from recomputation; the original's does not")


def load_float32(directory: Path, trust_remote_code: bool = False) -> Any:
    """The checkpoint as the stock loader reads it, eager attention, parameters in memory of their own.

    Mapped weights start at any multiple of 8 bytes, and matrix kernels round differently with the alignment (seen: 3e-6
    of a standard deviation with Granite's experts); copies make equal models equal to the bit.
    """
    import torch

    kind = model_class(read_json(directory / CONFIG))
    options = {"attn_implementation": "eager", "local_files_only": True, "trust_remote_code": trust_remote_code}
    model = kind.from_pretrained(directory, dtype=torch.float32, **options)
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return model.eval()


def sample_ids(config: dict[str, Any]) -> torch.Tensor:
    """[2, LENGTH] token ids, fixed, away from the special ones at the front of most vocabularies."""
    import torch

    size = int(text_part(config).get("vocab_size") or 1000)
    generator = torch.Generator().manual_seed(1)
    return torch.randint(min(4, size - 1), size, (2, LENGTH), generator=generator)


def logits(model: Any, ids: torch.Tensor, passed: Sequence[int] = ()) -> torch.Tensor:
    """[B, T, V] without a cache, the layers in `passed` replaced by the identity."""
    import torch

    with torch.no_grad(), passing_through(model, passed, ids):
        return model(input_ids=ids, use_cache=False).logits


@contextlib.contextmanager
def passing_through(model: Any, indices: Sequence[int], ids: torch.Tensor) -> Iterator[None]:
    """Within this, the named layers return what they were given, in the form that they normally return."""
    from prune.model.layer_list import find_layer_list

    _, layers = find_layer_list(model)
    forms: dict[int, Any] = {}
    with contextlib.ExitStack() as stack:
        for index in indices:
            hook = layers[index].register_forward_hook(lambda m, a, out, i=index: forms.__setitem__(i, out))
            stack.callback(hook.remove)
        if indices:
            model(input_ids=ids, use_cache=False)
    saved = {index: layers[index].forward for index in indices}
    for index in indices:
        layers[index].forward = _identity(forms[index])  # type: ignore[method-assign]
    try:
        yield
    finally:
        for index, forward in saved.items():
            layers[index].forward = forward  # type: ignore[method-assign]


def _identity(form: Any) -> Callable[..., Any]:
    """A layer forward that returns its first input; further outputs are inputs of that shape, if there are any."""
    import torch

    def forward(*args: Any, **kwargs: Any) -> Any:
        given = [*args, *kwargs.values()] if args else [kwargs.pop("hidden_states"), *kwargs.values()]
        if not isinstance(form, tuple | list):
            return given[0]
        tensors = [value for value in given[1:] if isinstance(value, torch.Tensor)]
        rest = [next((t for t in tensors if _alike(t, part)), part) for part in form[1:]]
        return type(form)([given[0], *rest])

    return forward


def _alike(given: torch.Tensor, part: Any) -> bool:
    import torch

    return isinstance(part, torch.Tensor) and given.shape == part.shape and given.dtype == part.dtype


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest absolute difference in expected standard deviations; infinite where a value is not a number."""
    gap = float((found - expected).abs().max() / expected.std())
    return gap if gap == gap else float("inf")


def cache_error(model: Any, ids: torch.Tensor) -> float:
    """`difference` of the logits behind greedy generation with a cache from one recomputation without; inf on failure.

    Args:
        model: a causal language model.
        ids: [B, T] prompts without padding.
    """
    import torch

    options = {"do_sample": False, "eos_token_id": None, "output_logits": True, "return_dict_in_generate": True}
    with torch.no_grad():
        try:
            made = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, **options)
        except (ValueError, RuntimeError, IndexError, AttributeError, KeyError, TypeError):
            return float("inf")  # how a broken cache shows, in families that check it at all
        again = model(input_ids=made.sequences, use_cache=False).logits  # [B, T + NEW_TOKENS, V]
    return difference(torch.stack(made.logits, dim=1), again[:, ids.shape[1] - 1 : -1])
