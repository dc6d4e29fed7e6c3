"""Carrying a LoRA adapter along: the same layers go, the others get their new numbers, on disk as in its config.

The result lies in `adapters/NAME` of the cut checkpoint, one level down because transformers takes an
`adapter_config.json` beside `config.json` for a reason to load the adapter. Tensor bytes are copied unchanged.
Assumption: peft's saved names, `base_model.model.` + the module's name + `.lora_...`. Whatever its config says by
name or pattern must mean, for every module that stays, the same before and after, or the field is refused by name.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import regex
from annotated_types import Ge
from pydantic import TypeAdapter, ValidationError

from prune.checkpoint.directory import inside, read_json
from prune.checkpoint.headers import read_header
from prune.errors import PruneError, UsageError
from prune.files import write_exact_json
from prune.surgery.module_names import ESCAPED, NUMBERED
from prune.surgery.names import FIRST_NUMBER, FOREIGN
from prune.surgery.writer import Piece, Shard, write_shard

FOLDER = "adapters"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
PATTERN_SECONDS = 2.0
"""For all patterns of an adapter on all modules: `re` itself has no limit, and some patterns take for ever."""
_names = TypeAdapter(str | list[str] | None)
_layers = TypeAdapter(Annotated[int, Ge(0)] | list[Annotated[int, Ge(0)]] | None)
_numbers = TypeAdapter(dict[str, int | float] | None)
FIELDS: dict[str, tuple[TypeAdapter[Any], str]] = {
    **dict.fromkeys(("target_modules", "exclude_modules", "modules_to_save"), (_names, "a name or a list of names")),
    **dict.fromkeys(("rank_pattern", "alpha_pattern"), (_numbers, "a JSON object of numbers")),
    "layers_to_transform": (_layers, "a layer number or a list of them"),
    "layers_pattern": (_names, "a name or a list of names"),
}
"""Field of an adapter's config that a cut reads -> its type and how that is called."""
ROOT = "base_model.model."
PATTERN = re.compile(r"(?:layers|h|blocks)(?:\\)?\.(?:\(|\[|\\d|\d+\|)")
BY_NAME = (
    "target_modules", "exclude_modules", "target_parameters", "modules_to_save", "rank_pattern", "alpha_pattern",
)  # fmt: skip


@dataclass
class Adapter:
    """A planned adapter: its name below `adapters/`, its new config and its one weight file."""

    name: str
    config: dict[str, Any]
    shard: Shard
    metadata: dict[str, str]


@dataclass(frozen=True)
class BaseCut:
    """What the adapter must follow.

    Attributes:
        prefix: of the decoder layers on disk, such as `model.layers.`.
        depth: layers before the cut.
        new_index: old -> new index of the kept layers.
        renamed: old -> new name of the kept tensors.
        output: the cut checkpoint, as the adapter's config will name its base.
    """

    prefix: str
    depth: int
    new_index: dict[int, int]
    renamed: dict[str, str]
    output: str


def adapter_directories(checkpoint: Path) -> list[Path]:
    """The adapters that lie below a checkpoint, by name."""
    return sorted(path.parent for path in (checkpoint / FOLDER).glob(f"*/{ADAPTER_CONFIG}"))


def plan_adapters(directories: Sequence[str | Path], base: BaseCut) -> list[Adapter]:
    """Read and plan all adapters; nothing is written.

    Raises:
        UsageError: no such directory, or two of the same name.
        PruneError: not LoRA, pickled, made for another depth, only for removed layers, or a field that cannot follow.
    """
    adapters: list[Adapter] = []
    for directory in map(Path, directories):
        name = directory.resolve().name
        if name in [adapter.name for adapter in adapters]:
            raise UsageError(f"--adapter {directory}: a second adapter named {name!r}; rename one of the directories")
        adapters.append(_plan(directory, name, base))
    return adapters


def write_adapter(adapter: Adapter, target: Path) -> list[str]:
    """Write it below an existing checkpoint directory; returns the file names relative to that."""
    directory = target / FOLDER / adapter.name
    directory.mkdir(parents=True)
    write_shard(adapter.shard, adapter.metadata, directory / ADAPTER_WEIGHTS)
    write_exact_json(directory / ADAPTER_CONFIG, adapter.config)
    return [f"{FOLDER}/{adapter.name}/{name}" for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS)]


def _plan(directory: Path, name: str, base: BaseCut) -> Adapter:
    if not (directory / ADAPTER_CONFIG).is_file():
        raise UsageError(f"--adapter {directory}: no {ADAPTER_CONFIG} there; give the directory that peft saved")
    if not (directory / ADAPTER_WEIGHTS).exists():
        raise PruneError(f"{directory}: no {ADAPTER_WEIGHTS}; pickled adapters are not read, save it as safetensors")
    where = f"{directory / ADAPTER_CONFIG}"
    config = read_json(inside(directory, ADAPTER_CONFIG))
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else None
        raise PruneError(f"{where}: peft_type {kind!r} cannot be cut along; only LORA can")
    _check_types(config, where)
    if config.get("layer_replication"):
        raise PruneError(f"{where}: layer_replication repeats layers, which cannot be cut along; merge it first")
    weights = inside(directory, ADAPTER_WEIGHTS)
    header = read_header(weights)
    prefix = _prefix([entry.name for entry in header.entries], base, directory)
    renamed = _rename([entry.name for entry in header.entries], prefix, base, directory)
    pieces = [Piece(renamed[e.name], weights, e) for e in header.entries if e.name in renamed]
    if not pieces:
        raise PruneError(f"{directory}: adapts removed layers only; nothing of it would be left")
    edited = _edit(config, prefix, renamed, base, where)
    return Adapter(name, edited, Shard(pieces), header.metadata or {"format": "pt"})


def _check_types(config: dict[str, Any], where: str) -> None:
    """Refuse fields of other types than peft writes.

    Raises:
        PruneError: the first such field.
    """
    for field, (kind, what) in FIELDS.items():
        try:
            kind.validate_python(config.get(field), strict=True)
        except ValidationError:
            raise PruneError(f"{where}: {field} is {str(config[field])[:40]}; it must be {what}") from None


def _prefix(names: list[str], base: BaseCut, directory: Path) -> str | None:
    """The decoder layers' prefix in the adapter's names; None when no layer is adapted."""
    stack = base.prefix.rstrip(".").rpartition(".")[2] + "."
    found = {match["prefix"] for name in names if (match := FIRST_NUMBER.match(name))}
    own = sorted(prefix for prefix in found if not any(mark in prefix for mark in FOREIGN))
    fitting = [prefix for prefix in own if prefix.startswith(ROOT) and f".{prefix}".endswith(f".{stack}")]
    if own != fitting or len(own) > 1:
        raise PruneError(f"{directory}: adapts {', '.join(own)}, the model's layers are {base.prefix}*; another model?")
    return own[0] if own else None


def _rename(names: list[str], prefix: str | None, base: BaseCut, directory: Path) -> dict[str, str]:
    """Old -> new name of the adapter's tensors that stay."""
    renamed = {}
    for name in names:
        match = FIRST_NUMBER.match(name)
        if match is None or match["prefix"] != prefix:
            renamed[name] = name
            continue
        old = int(match["index"])
        if old >= base.depth:
            raise PruneError(f"{directory}: holds {name!r}, the model has {base.depth} layers; another model?")
        if old in base.new_index:
            renamed[name] = f"{prefix}{base.new_index[old]}{match['rest']}"
    return renamed


def _edit(
    config: dict[str, Any], prefix: str | None, renamed: dict[str, str], base: BaseCut, where: str
) -> dict[str, Any]:
    """The config for the shallower base."""
    edited = {**config, "base_model_name_or_path": base.output, "revision": None}
    for field in BY_NAME:
        if isinstance(config.get(field), list | dict):
            edited[field] = _renumber(config[field], base.new_index, f"{where}: {field}")
            if config[field] and not edited[field] and field == "target_modules":
                raise PruneError(f"{where}: {field} names removed layers only; nothing of it would be left")
    layers = config.get("layers_to_transform")
    if layers is not None and layers != []:
        if any((m := FIRST_NUMBER.match(name)) and m["prefix"] != prefix for name in renamed):
            raise PruneError(f"{where}: layers_to_transform also counts the layers of another stack; it cannot follow")
        kept = [base.new_index[i] for i in ([layers] if isinstance(layers, int) else layers) if i in base.new_index]
        if not kept:
            raise PruneError(f"{where}: layers_to_transform names removed layers only; nothing of it would be left")
        edited["layers_to_transform"] = kept[0] if isinstance(layers, int) else kept
    _check_patterns(config, edited, _modules(prefix, renamed, base), where)
    return edited


def _renumber(value: Any, new_index: dict[int, int], field: str) -> Any:
    """A list or dictionary with every layer name in it renumbered; `field` (file and field) is for the refusal."""
    if isinstance(value, list):
        pairs = [(item, _renumber_name(item, new_index, field) if isinstance(item, str) else item) for item in value]
        return [
            new if isinstance(new, str) else _renumber(new, new_index, field) for _, new in pairs if new is not None
        ]
    if isinstance(value, dict):
        renamed = {_renumber_name(key, new_index, field): item for key, item in value.items()}
        return {key: _renumber(item, new_index, field) for key, item in renamed.items() if key is not None}
    return value


def _renumber_name(text: str, new_index: dict[int, int], field: str) -> str | None:
    """A name with its layer renumbered; None when the layer is gone; unchanged when it names no layer."""
    plain = text.removeprefix("re:").removeprefix("+:").removeprefix("-:")
    plain = plain.replace("\\.", ".").lstrip("^").rstrip("$")
    if PATTERN.search(text):
        raise PruneError(f"{field}: {text!r} is a pattern over layer numbers, which cannot be renumbered")
    match = NUMBERED.search(plain)
    if match is None or "vision" in text or "visual" in text:
        return text
    old = int(match["index"])
    if old not in new_index:
        return None
    return re.sub(ESCAPED.format(old), lambda found: f"{found[1]}{new_index[old]}", text, count=1)


def _modules(prefix: str | None, renamed: dict[str, str], base: BaseCut) -> list[tuple[str, str]]:
    """(old, new) names, as peft sees them, of the modules in kept layers: of the base, and those adapted."""
    inner = (prefix or ROOT + base.prefix).removeprefix(ROOT)
    pairs = {
        (inner + old.removeprefix(base.prefix), inner + new.removeprefix(base.prefix))
        for old, new in base.renamed.items()
        if old.startswith(base.prefix)
    }
    modules = {(old.rpartition(".")[0], new.rpartition(".")[0]) for old, new in pairs}
    modules |= {
        (old.removeprefix(ROOT).partition(".lora_")[0], new.removeprefix(ROOT).partition(".lora_")[0])
        for old, new in renamed.items()
    }
    return sorted(modules)


def _check_patterns(before: dict[str, Any], after: dict[str, Any], modules: list[tuple[str, str]], where: str) -> None:
    """Each pattern must say of a module's new name what it said of the old one."""
    until = time.monotonic() + PATTERN_SECONDS
    for field in ("rank_pattern", "alpha_pattern", "target_modules", "exclude_modules"):
        ask = _pattern_value if field.endswith("_pattern") else _selects
        try:
            for old, new in modules:
                if ask(before.get(field), old, until) != ask(after.get(field), new, until):
                    raise PruneError(f"{where}: {field} says something else of {old!r} once it is {new!r}")
        except regex.error as error:
            raise PruneError(f"{where}: {field} holds a bad regular expression: {error}") from None
        except (TimeoutError, MemoryError):
            raise PruneError(f"{where}: {field} holds a regular expression that takes for ever; simplify it") from None


def _pattern_value(patterns: dict[str, Any] | None, module: str, until: float) -> Any:
    """Value of the first key that matches, as `peft.utils.other.get_pattern_key` looks it up."""
    for key, value in (patterns or {}).items():
        if regex.match(rf"(.*\.)?({key})$", module, timeout=_left(until)):
            return value
    return None


def _selects(targets: str | list[str] | None, module: str, until: float) -> bool:
    """Whether peft's `check_target_module_exists` finds the module among the targets."""
    if isinstance(targets, str):
        return regex.fullmatch(targets, module, timeout=_left(until)) is not None
    return any(module == target or module.endswith(f".{target}") for target in targets or [])


def _left(until: float) -> float:
    """Seconds that remain, for `regex`, which raises TimeoutError."""
    return max(1e-3, until - time.monotonic())
