"""Removing only the attention or only the MLP of a layer.

In memory the sub-layer is silenced (`prune.model.silence`): exact, with a working cache, without its weights and its
time. In the original's own architecture no checkpoint can leave one sub-layer out, so there a sub-layer can go only
where that is the removal of a layer: when a layer loses both, or in families whose layers hold a single sub-layer each
(Nemotron-H). What other stock formats can carry is in `deci`; everything else is refused with the alternatives.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from prune.checkpoint.depth_fields import depth_of, text_part
from prune.errors import PruneError, UsageError
from prune.surgery.families import family_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from prune.model.silence import Undo


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
            " drop_attn=..., drop_mlp=...) in memory"
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
        PruneError: attention and MLP of a layer cannot be told apart, or something would still be added.
    """
    _silence(model, attn, mlp)
    return model


@contextlib.contextmanager
def without_sublayers(
    model: PreTrainedModel, *, attn: Sequence[int] = (), mlp: Sequence[int] = ()
) -> Iterator[PreTrainedModel]:
    """`drop_sublayers` for the duration of a `with` block; the model is put back afterwards, to the bit."""
    undone = _silence(model, attn, mlp)
    try:
        yield model
    finally:
        for undo in reversed(undone):
            undo()


def _silence(model: PreTrainedModel, attn: Sequence[int], mlp: Sequence[int]) -> list[Undo]:
    """Silence all of them, or none; returns what puts them back."""
    from prune.model.anatomy import find_anatomy
    from prune.model.silence import Silencer

    anatomy = find_anatomy(model)
    for name, chosen in (("drop_attn", attn), ("drop_mlp", mlp)):
        outside = [index for index in chosen if not 0 <= index < anatomy.num_layers]
        if outside:
            raise UsageError(
                f"--{name}: layer {outside[0]} does not exist; the model has layers 0-{anatomy.num_layers - 1}"
            )
    silencer = Silencer(model, anatomy)
    for layer in sorted({*attn, *mlp}):
        silencer.check(layer)
    return [silencer.silence(i, "attn") for i in attn] + [silencer.silence(i, "mlp") for i in mlp]
