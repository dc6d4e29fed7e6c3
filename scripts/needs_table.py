"""The README's table of what four sizes need: memory and work by the formulas of `prune.estimates`; nothing is run.

Memory is the peak of the step on the device that computes, weights in bfloat16, without what libraries and allocators
keep. Time is arithmetic: 2 operations a weight and token, and half the passes that removing every layer anew would
take; at 100 TFLOP/s, what one data-centre GPU may sustain. `prune run --dry_run` says the same of your own
recipe, with a speed that it measures.

    python scripts/needs_table.py [--readme README.md]
"""

from __future__ import annotations

import argparse
import re
from dataclasses import replace
from pathlib import Path

from prune.estimates import memory, work
from prune.estimates.memory import Batch, Training
from prune.estimates.shape import Shape

SUSTAINED = 1e14
"""Operations a second that the hours assume."""
DOCUMENTS, LENGTH = 128, 512
ROWS, STEPS, RANK = 8, 300, 16
MODELS = {
    "SmolLM2-135M": (30, 576, 1536, 9, 3, 49152, True),
    "Llama-3.2-1B": (16, 2048, 8192, 32, 8, 128256, True),
    "Llama-3.1-8B": (32, 4096, 14336, 32, 8, 128256, False),
    "Llama-3.1-70B": (80, 8192, 28672, 64, 8, 128256, False),
}
"""Layers, width, MLP width, heads, key-value heads, vocabulary, tied head: from their published configurations."""


def llama(layers: int, width: int, wide: int, heads: int, groups: int, vocabulary: int, tied: bool) -> Shape:
    """The shape of a Llama, computed in bfloat16."""
    keys = width // heads * groups
    layer = 2 * width * width + 2 * width * keys + 3 * width * wide + 2 * width
    linear = 4 * width + 2 * (width + keys) + 3 * (width + wide)
    head = vocabulary * width
    return Shape(
        layers=layers, layer=layer, active=layer, linear=linear, outside=(1 if tied else 2) * head + width, head=head,
        vocabulary=vocabulary, width=width, wide=wide, heads=heads, attention=width, cached=2 * keys, item=2, stored=2,
    )  # fmt: skip


def training(shape: Shape) -> Training:
    """LoRA beside the original, as `prune.heal` does it by itself; a quarter of the layers is gone from the middle."""
    student = shape.layers - shape.layers // 4
    adapted = student - (student // 2 - 1)
    return Training(student, adapted, memory.adapters(shape, adapted, RANK), checkpointing=True, bf16=True)


def gigabytes(moments: memory.Moments) -> str:
    """The peak."""
    return f"{max(moments.values()) / 1e9:.3g} GB"


def hours(shape: Shape, done: work.Work) -> str:
    """Time of so much work at the sustained speed."""
    seconds = 2 * (done.layers * shape.active + done.heads * shape.head) / SUSTAINED
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.0f} min" if seconds >= 60 else "< 1 min"


def table() -> str:
    """As Markdown, one row a model."""
    rows = [
        "| | weights | analyze | the same with `--stream` | heal, LoRA | evaluate | time: analyze | time: heal |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    tokens = DOCUMENTS * LENGTH
    for name, numbers in MODELS.items():
        shape, batch = llama(*numbers), Batch(ROWS, LENGTH)
        trained = training(shape)
        held = shape.weights + memory.forward(shape, replace(batch, length=2 * LENGTH))
        cells = [
            f"{shape.weights / 1e9:.3g} GB",
            gigabytes(memory.analysis(shape, batch)),
            gigabytes(memory.streamed(shape, batch, memory=4 << 30)),
            gigabytes(memory.healing(shape, batch, trained)),
            gigabytes({"": held}),
            hours(shape, work.analysis(shape.layers, tokens, DOCUMENTS)),
            hours(shape, work.healing(shape.layers, STEPS * ROWS * LENGTH, trained)),
        ]
        rows.append(f"| {name}, {shape.parameters / 1e9:.2g} B | {' | '.join(cells)} |")
    return "\n".join(rows)


def main() -> None:
    """Print it, or put it into the README."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readme", type=Path, help="file whose marked part is replaced; printed if absent")
    options = parser.parse_args()
    if options.readme is None:
        print(table())
        return
    text = options.readme.read_text(encoding="utf8")
    marked = re.compile(r"(<!-- needs: begin -->\n\n).*?(\n\n<!-- needs: end -->)", re.DOTALL)
    options.readme.write_text(marked.sub(lambda found: f"{found[1]}{table()}{found[2]}", text), encoding="utf8")


if __name__ == "__main__":
    main()
