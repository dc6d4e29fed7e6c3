"""Mixtures whose dense layers follow `decoder_sparse_step` (Qwen 2, 3 and Next, Flint): written out as a list."""

from __future__ import annotations

from prune.errors import PruneError
from prune.surgery.families.rule import Removal


def edit(removal: Removal) -> None:
    """`decoder_sparse_step` as an explicit list of dense layers: always expressible.

    Raises:
        PruneError: it is null where there are experts; transformers divides by it.
    """
    text, new_index = removal.text, removal.new_index
    step, experts = text.get("decoder_sparse_step", 1), text.get("num_experts", 1)
    if experts and step is None:
        raise PruneError("config.json: decoder_sparse_step is null; it must be a number of layers, 1 or more")
    dense = set(text.get("mlp_only_layers") or [])  # already renumbered
    if experts and step != 1:
        dense |= {new_index[i] for i in removal.keep if (i + 1) % step != 0}
        text["decoder_sparse_step"] = 1
        text["mlp_only_layers"] = sorted(dense)
