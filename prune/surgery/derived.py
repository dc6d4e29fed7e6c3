"""Asking the config class of the installed transformers which per-layer lists it computes when config.json has none.

Needed for families without a known rule (`prune.surgery.families.KNOWN`), and for models in memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from prune.errors import PruneError
from prune.surgery.families import KNOWN
from prune.surgery.families.rule import Lists, Resolver


def config_object(config: dict[str, Any]) -> Any:
    """The config of the installed transformers that a config.json (or its text part) describes.

    Raises:
        PruneError: unknown model_type, or the class refuses the values.
    """
    from transformers import CONFIG_MAPPING, PreTrainedConfig

    kind = str(config.get("model_type"))
    if kind not in CONFIG_MAPPING and "auto_map" in config:
        # Its code comes with the checkpoint and is not run here: the fields as they stand, nothing derived of them.
        # The proof, which replays such a family, decides.
        return PreTrainedConfig.from_dict(PreTrainedConfig._decode_special_floats(config))
    if kind not in CONFIG_MAPPING:
        raise PruneError(f"config.json: model_type {kind!r} is unknown to the installed transformers")
    with _refusals(kind):
        # what json cannot hold, such as infinity, is tagged on disk
        return CONFIG_MAPPING[kind].from_dict(PreTrainedConfig._decode_special_floats(config))


@contextlib.contextmanager
def _refusals(kind: object) -> Iterator[None]:
    """Whatever a config class raises, at building or when a property is read, is a refusal of config.json."""
    try:
        yield
    except Exception as error:  # strict dataclass validation raises many kinds
        reason = " ".join(str(error).split())[:300]
        raise PruneError(f"config.json: {kind} refuses its values: {reason}") from error


def from_class(config: dict[str, Any], n: int) -> Lists:
    """Every field of the config class that ends up as a list of length n (imports transformers).

    Raises:
        PruneError: unknown model_type, or the class refuses the values.
    """
    built = config_object(config)
    with _refusals(built.model_type):
        values = built.to_dict()
    return {name: list(v) for name, v in values.items() if isinstance(v, list | tuple) and len(v) == n}


def fixed_lists(config: dict[str, Any]) -> Lists:
    """Per-layer lists that the config class only computes: properties, which no config.json can state.

    Raises:
        PruneError: unknown model_type, or the class refuses the values.
    """
    built = config_object(config)
    names = {name for kind in type(built).__mro__ for name, value in vars(kind).items() if isinstance(value, property)}
    found = {}
    for name in sorted(names - set(built.attribute_map)):
        with _refusals(built.model_type):
            value = getattr(built, name, None)
        if isinstance(value, list | tuple) and len(value) == built.num_hidden_layers:
            found[name] = list(value)
    return found


def follows_depth(config: dict[str, Any], field: str, n: int) -> bool:
    """Whether a field is per layer by experiment: left to itself, the class makes it one longer for one layer more.

    Lists that a config class does not know, and lists whose length it never derives, do not count.
    """
    lengths = []
    for depth in (n, n + 1):
        bare = {name: value for name, value in config.items() if not (isinstance(value, list) and len(value) == n)}
        bare |= {name: depth for name in config if config[name] == n and "layer" in name}
        try:
            value = config_object(bare).to_dict().get(field)
        except PruneError:
            return False
        lengths.append(len(value) if isinstance(value, list | tuple) else -1)
    return lengths == [n, n + 1]


def resolver_for(model_type: str) -> Resolver:
    """The known rule of a family, or the question to its config class."""
    return KNOWN.get(model_type, from_class)
