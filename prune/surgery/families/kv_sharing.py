"""Gemma 3n, Gemma 4, Mistral Large 4: the last layers read the keys and values of an earlier layer of their kind."""

from __future__ import annotations

from collections.abc import Sequence

from prune.errors import PruneError
from prune.surgery.families.rule import Family, Removal


def keep_sources(removal: Removal) -> None:
    """The layers whose keys kept layers read must stay."""
    types, n, keep = removal.types, removal.n, removal.keep
    shared = removal.text.get("num_kv_shared_layers") or 0
    if shared and len(types) == n:
        own, readers = types[: n - shared], {types[i] for i in keep if i >= n - shared}
        sources = {max(i for i, t in enumerate(own) if t == name) for name in readers & set(own)}
        gone = sorted(sources - set(keep))
        if gone:
            raise PruneError(f"config.json: num_kv_shared_layers: later layers read layer {gone[0]}'s keys; keep it")


def stores_read(modes: Sequence[str | None], types: Sequence[str]) -> list[str | None]:
    """KV-sharing modes, without the layers that store keys and values which no later layer of their kind reuses."""
    reused = {kind for mode, kind in zip(modes, types, strict=True) if mode == "reuse"}
    return [None if m == "store" and kind not in reused else m for m, kind in zip(modes, types, strict=True)]


def _end_on_full_attention(removal: Removal) -> None:
    last = removal.keep[-1]
    if removal.types and removal.types[last] != "full_attention":
        raise PruneError(
            f"config.json: layer_types: {removal.kind} makes the last layer full_attention, but layer {last} is"
            f" {removal.types[last]}; end on a full_attention layer"
        )
    keep_sources(removal)


COMPUTED = {"kv_sharing_modes": stores_read}
GEMMA3N = Family(refuse=keep_sources, computed=COMPUTED, per_layer=frozenset(("intermediate_size",)))
GEMMA4 = Family(refuse=_end_on_full_attention, computed=COMPUTED)
MISTRAL_LARGE4 = Family(refuse=keep_sources, computed=COMPUTED)
