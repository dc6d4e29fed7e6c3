"""Layer numbers inside `quantization_config` and the files that repeat it: see `module_names` for what becomes of them.

Quantised tensors themselves are carried byte by byte under their layer's new number. In these configurations every
list of strings, and every key of a dictionary, may name modules; other strings may name several, with commas.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prune.checkpoint.config_types import check_method
from prune.errors import PruneError
from prune.surgery.module_names import PLAIN, ModuleNames, Reader, from_start, readers_of


def edit_quantization(quantization: dict[str, Any], names: ModuleNames, where: str = "config.json") -> None:
    """Let every name and pattern in a configuration follow its modules, in place.

    Args:
        quantization: what `quantization_config` holds, or a file that repeats it.
        names: the modules before and after.
        where: the file, for messages.

    Raises:
        PruneError: an unknown method, or a pattern that cannot follow (field named).
    """
    check_method(quantization)
    method = str(quantization.get("quant_method", "bitsandbytes"))
    for field, value in list(quantization.items()):
        readers = readers_of(method, field)
        quantization[field] = follow(value, field, names, readers, f"{where}: quantization_config.{field}")


def follow(value: Any, field: str, names: ModuleNames, readers: tuple[Reader, ...], where: str) -> Any:
    """A value of a configuration, with every name and pattern in it that of the same modules after the cut."""
    if isinstance(value, list):
        if all(isinstance(item, str) for item in value):
            new = [name for item in value for name in names.follow(item, readers, where)]
            return value if new == value else list(dict.fromkeys(new))
        return [follow(item, field, names, readers, where) for item in value]
    if isinstance(value, dict):
        return _follow_keys(value, field, names, readers, where)
    if isinstance(value, str) and "." in value:
        parts = value.split(",")
        kept = [new for part in parts for new in names.follow(part.strip(), readers, where)]
        return value if kept == [part.strip() for part in parts] else ",".join(kept)
    return value


def _follow_keys(
    value: Mapping[str, Any], field: str, names: ModuleNames, readers: tuple[Reader, ...], where: str
) -> dict[str, Any]:
    """The dictionary with its keys followed; a name that two keys become goes to the one that counted before.

    Raises:
        PruneError: a module would get the value of another key than before.
    """
    followed = {key: names.follow(key, readers, where) for key in value}
    owner: dict[str, str] = {}
    for key, entries in followed.items():
        for entry in entries:
            owner.setdefault(entry, key)
    made = {name: value[key] for key in value for name in followed[key] if owner[name] == key}
    if any(new != [key] for key, new in followed.items() if not PLAIN.fullmatch(key)):
        for old, new in names.stored.items():
            if new is not None and value.get(_key(value, old, readers)) != made.get(_key(made, new, readers)):
                raise PruneError(f"{where}: its patterns cannot be written out in this order; write names instead")
    return {name: follow(item, field, names, readers, where) for name, item in made.items()}


def _key(table: Mapping[str, Any], name: str, readers: tuple[Reader, ...]) -> str:
    """The key that counts for a module: the very name, else the first that matches; GPTQModel takes the first."""
    if name in table and from_start not in readers:
        return name
    return next((key for key in table if any(reader(key, name) for reader in readers)), "")
