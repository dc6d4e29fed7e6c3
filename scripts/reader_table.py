#!/usr/bin/env python3
"""Which cuts each runtime reads as transformers 5 does, family by family: the rules of `prune/serving`, put to use.

    .venv/bin/python scripts/reader_table.py        # into prune/packaging/README.md

A random config of each family with 24 layers, in both dialects, loses every block of a size, wherever it starts, until
a size is found at which every one is read rightly. Nothing is run here; scripts/runtime_matrix.py compares the rules
with the programs.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from prune.checkpoint.dialects import in_both_dialects
from prune.serving.layers import true_layers
from prune.serving.readers import Reading, derived, readings
from prune.serving.runtimes import MODERN, RUNTIMES
from prune.surgery.config_fields import edit_config

README = Path(__file__).resolve().parents[1] / "prune" / "packaging" / "README.md"
BEGIN, END = "<!-- readers: begin -->", "<!-- readers: end -->"
DEPTH = 24
BLOCKS = (1, 2, 4, 6)
VALUES = {
    "num_hidden_layers": DEPTH, "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "query_pre_attn_scalar": 16,
}  # fmt: skip


def config_of(family: str) -> dict[str, Any]:
    """As transformers 5 writes it, with the older keys beside."""
    from transformers import CONFIG_MAPPING

    found = CONFIG_MAPPING[family](**VALUES).to_dict()
    return in_both_dialects({k: v for k, v in found.items() if v is not None} | {"model_type": family})[0]


def read_by(config: dict[str, Any], drop: range, name: str, version: int) -> Reading:
    """What is said of the config without these layers."""
    kept = edit_config(config, [layer for layer in range(DEPTH) if layer not in drop]) if drop else config
    return readings(kept, [name])[version]


def cell(config: dict[str, Any], family: str, name: str, version: int) -> str:
    """Which blocks may go, and what the program goes by; or what it makes of the whole model."""
    whole = read_by(config, range(0), name, version)
    if whole.status != "right":
        return "-" if whole.status == "unknown" else whole.status
    pattern = derived(RUNTIMES[name][version], config, family, DEPTH)
    alike = len(set(pattern or true_layers(config))) == 1
    by = "all alike" if alike else "layer number" if pattern else "its lists"
    for size in BLOCKS:
        blocks = [range(first, first + size) for first in range(DEPTH - size + 1)]
        if all(read_by(config, block, name, version).status == "right" for block in blocks):
            note = "; note" if whole.reason else ""
            return f"{'any' if size == 1 else f'blocks of {size}'} ({by}{note})"
    return f"none ({by})"


def table() -> str:
    """Markdown: a row a family, a column a version of a runtime."""
    columns = [(name, i) for name, versions in RUNTIMES.items() for i in range(len(versions))]
    titles = [readings(config_of("llama"), [name])[i].name for name, i in columns]
    lines = ["| family | " + " | ".join(titles) + " |", "| --- |" + " --- |" * len(titles)]
    families: dict[str, list[str]] = {}
    for family in MODERN:
        config = config_of(family)
        families.setdefault(" | ".join(cell(config, family, *column) for column in columns), []).append(family)
    return "\n".join([*lines, *(f"| {', '.join(names)} | {cells} |" for cells, names in families.items())])


if __name__ == "__main__":
    before, rest = README.read_text(encoding="utf8").split(BEGIN, 1)
    text = table()
    print(text)
    README.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.split(END, 1)[1]}", encoding="utf8")
