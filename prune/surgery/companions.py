"""The other files of a checkpoint that is cut: edited where they repeat the quantisation, else carried or left out.

A file that states the depth, or names layers by number, would be wrong beside a cut checkpoint. Those that readers
need are edited; any other (a native `params.json`, a quantiser's recipe or log) is left out, and the log says so.
Vocabularies, templates, licences and code are carried as they are. Assumption: what tokenizers and processors read has
nothing to do with layers.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from prune.checkpoint.config_types import QUANTISED
from prune.checkpoint.depth_fields import DEPTH
from prune.checkpoint.directory import Checkpoint, read_json
from prune.files import write_exact_json
from prune.surgery.module_names import ModuleNames
from prune.surgery.quantization import edit_quantization

log = logging.getLogger("prune")

QUANTISATIONS = {
    "hf_quant_config.json": "modelopt",
    "quantize_config.json": "gptq",
    "quant_config.json": "awq",
    "quantization_config.json": "auto-round",
    "quanto_qmap.json": "quanto",
}
"""Files that repeat `quantization_config`, or stand for it -> the method that writes them."""
GENERATION = "generation_config.json"
LEFT_OUT = {
    "adapter_config.json": "the adapter beside it is cut with --adapter",
    "quant_log.csv": "a quantiser's log of every layer",
}
CARRIED = re.compile(
    r"token|vocab|merges|tekken|spiece|bpe|chat_template|processor|\.(py|jinja|model|tiktoken|md)$|^(licen[cs]e|notice)",
    re.IGNORECASE,
)
"""Names of files that are never searched for layers."""
SEARCHED = (".json", ".yaml", ".yml", ".toml", ".csv", ".ini", ".cfg")
MOST_BYTES = 16 << 20
NAMED = re.compile(r"(?:layers|blocks|h)(?:\\{0,2}\.|/|\[)[\[(]?[0-9]+")
"""A layer by its number, in a name or a pattern, as text."""


def plan_companions(checkpoint: Checkpoint, depth: int, modules: ModuleNames) -> dict[str, Path | dict[str, Any]]:
    """What becomes of each file of a checkpoint that is cut: its path where it is carried, its new content if edited.

    What is left out is missing, and named in the log.

    Args:
        checkpoint: before the cut.
        depth: of it.
        modules: before and after.

    Raises:
        PruneError: a file that readers need cannot be read, or holds a pattern that cannot follow (named).
    """
    planned: dict[str, Path | dict[str, Any]] = {}
    for name, path in checkpoint.companions.items():
        base = PurePosixPath(name).name
        if base in QUANTISATIONS and (edited := _quantisation(name, path, QUANTISATIONS[base], modules)):
            planned[name] = edited
        elif base == GENERATION:
            planned[name] = _generation(path, modules.new_index)
        elif reason := _why_left_out(base, path, depth):
            log.warning("%s: left out of the cut: %s", name, reason)
        else:
            planned[name] = path
    for folder in checkpoint.left_behind:
        log.warning("%s/: left out of the cut: transformers reads nothing in this folder", folder)
    return planned


def write_companions(planned: Mapping[str, Path | dict[str, Any]], directory: Path) -> list[str]:
    """Write what `plan_companions` planned, or copy `Checkpoint.companions`; returns the names."""
    for name, content in planned.items():
        target = directory / name
        target.parent.mkdir(exist_ok=True)
        if isinstance(content, Path):
            shutil.copyfile(content, target)
        else:
            write_exact_json(target, content)
    return list(planned)


def _quantisation(name: str, path: Path, method: str, modules: ModuleNames) -> Path | dict[str, Any] | None:
    """The file, its new content, or None where it is not of the method that its name stands for."""
    content = read_json(path)
    if not isinstance(content, dict):
        return None
    before = json.dumps(content)
    # ModelOpt's own file keeps everything under `quantization`; quanto's maps names to types.
    inner = content.get("quantization")
    own = inner if isinstance(inner, dict) else {"map": content} if method == "quanto" else content
    stated = "quant_method" in own
    if stated and str(own["quant_method"]) not in QUANTISED:
        return None
    own.setdefault("quant_method", method)
    edit_quantization(own, modules, name)
    if not stated:
        own.pop("quant_method")
    content = own["map"] if method == "quanto" else content
    return path if json.dumps(content) == before else content


def _generation(path: Path, new_index: Mapping[int, int]) -> Path | dict[str, Any]:
    """Contrasting layers (DoLa) and an early exit are stated by number."""
    content = read_json(path)
    if not isinstance(content, dict):
        return path
    before = dict(content)
    layers, early = content.get("dola_layers"), content.get("assistant_early_exit")
    if isinstance(layers, list) and all(type(i) is int for i in layers):
        content["dola_layers"] = [new_index[i] for i in layers if i in new_index]
    if type(early) is int:
        content["assistant_early_exit"] = sum(old < early for old in new_index)
    for field in ("dola_layers", "assistant_early_exit"):
        if field in content and not content[field]:
            del content[field]
    return path if content == before else content


def _why_left_out(base: str, path: Path, depth: int) -> str | None:
    if base in LEFT_OUT:
        return LEFT_OUT[base]
    if CARRIED.search(base) or not base.lower().endswith(SEARCHED) or path.stat().st_size > MOST_BYTES:
        return None
    text = path.read_text(encoding="utf8", errors="replace")
    if found := re.search(rf"\b({'|'.join(DEPTH)})\b[\"']?\s*[:=]\s*{depth}\b", text):
        return f"it states the depth ({found[1]} {depth})"
    if found := NAMED.search(text):
        return f"it names layers by number ({found[0]})"
    return None
