"""A bitsandbytes variant beside an exported checkpoint: smaller in memory, with hashes and recorded logits of its own.

The evidence is the full checkpoint's: the variant says that it was not measured itself. Config keys and companions are
the full checkpoint's own; only `quantization_config` is added. Assumption: the full checkpoint is in its final place.
"""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.checkpoint.directory import read_checkpoint, read_json
from prune.errors import PruneError, UsageError
from prune.files import (
    follow_umask,
    refuse_non_empty,
    sha256_file,
    staged_directory,
    write_exact_json,
    write_json,
)
from prune.packaging import replay
from prune.packaging.card import write_card
from prune.packaging.manifest import MANIFEST, build_manifest, read_manifest
from prune.surgery.companions import write_companions

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig

KINDS = ("nf4", "int8")
DETAILS = ("format", "files", "versions", "replay", "evidence", "verdict")
"""Entries of the full checkpoint's manifest that do not hold for the variant."""


def variant_directory(output: Path, kind: str) -> Path:
    """Where the variant goes; checked before anything is written.

    Raises:
        UsageError: an unknown kind, no bitsandbytes, or a directory in use.
    """
    from importlib.util import find_spec

    if kind not in KINDS:
        raise UsageError(f"--quantize {kind!r}: give one of {', '.join(KINDS)}")
    if find_spec("bitsandbytes") is None:
        raise UsageError("--quantize needs bitsandbytes, which is not installed: pip install bitsandbytes")
    target = output.with_name(f"{output.name}-{kind}")
    refuse_non_empty(target)
    return target


def check_unquantized(directory: Path, kind: str) -> None:
    """Refuse to quantise a second time.

    Raises:
        PruneError: the checkpoint's config states a quantisation.
    """
    config = read_json(directory / "config.json")
    if any(isinstance(part, dict) and part.get("quantization_config") for part in (config, *config.values())):
        raise PruneError(f"--quantize {kind}: {directory} is already quantised; export it without --quantize")


def write_variant(full: Path, kind: str, max_shard_size: str = "5GB") -> dict[str, Any]:
    """Quantise an exported checkpoint into the directory beside it; returns the variant's manifest.

    Raises:
        UsageError: see `variant_directory`, or `full` has no manifest.
        PruneError: bitsandbytes cannot do it here (its reason given), or the files do not answer as the model did.
    """
    from prune.model.loading import load_model

    target = variant_directory(full, kind)
    manifest = read_manifest(full)
    settings = _settings(kind, full)
    facts = {key: value for key, value in manifest.items() if key not in DETAILS}
    with staged_directory(target) as staging:
        try:
            model = load_model(str(full), dtype="auto", quantization_config=settings)
            wanted = replay.record(model)
            model.save_pretrained(staging, max_shard_size=max_shard_size)
        except (ImportError, NotImplementedError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:300]
            raise PruneError(f"--quantize {kind}: bitsandbytes cannot do it here: {reason}; {full} stands") from error
        del model
        gc.collect()
        _dress(full, staging)
        difference = replay.largest_difference(load_model(str(staging), dtype="auto"), wanted)
        if not difference <= replay.TOLERANCE:
            raise PruneError(f"{target}: the saved {kind} files answer differently ({difference:.1e}); {full} stands")
        label = manifest.get("label") or "no evidence"
        facts |= {
            "label": f"{kind} variant of {full.name}, not measured itself (the full checkpoint: {label})",
            "quantization": kind,
            "variant_of": {"name": full.name, "manifest_sha256": sha256_file(full / MANIFEST)},
        }
        write_card(staging, facts, None)
        recorded = replay.record(load_model(str(staging), device="cpu"))
        written = build_manifest(staging, facts, recorded)
        write_json(staging / MANIFEST, written)
    return written


def _settings(kind: str, full: Path) -> BitsAndBytesConfig:
    """4 bit: NF4 (QLoRA, Dettmers et al. 2023) with double quantisation, computing in the checkpoint's own dtype."""
    import torch
    from transformers import BitsAndBytesConfig

    check_unquantized(full, kind)
    config = read_json(full / "config.json")
    if kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    dtype = getattr(torch, str(config.get("dtype") or config.get("torch_dtype") or "float32"))
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def _dress(full: Path, staging: Path) -> None:
    """Companions and config of the full checkpoint; of the saved config only `quantization_config` stays."""
    saved = json.loads((staging / "config.json").read_text(encoding="utf8"))
    config = json.loads((full / "config.json").read_text(encoding="utf8"))
    config["quantization_config"] = saved["quantization_config"]
    write_exact_json(staging / "config.json", config)
    write_companions(read_checkpoint(full).companions, staging)
    follow_umask(*(path for path in staging.iterdir() if path.is_file()))
