"""What each stage would take for 8, 70 and 405 billion parameters on one, eight and sixteen cards: computed, not run.

    python scripts/large_plan.py [--card_gb 80] [--tflops 400] [--read_gb_s 4]

Shapes are Llama 3.1's; memory and work come from `prune/estimates`, as in `prune run --dry_run`. Assumptions: matrix
products at `--tflops` (some 40 % of an H100's peak in bfloat16), a disk that reads `--read_gb_s`, calibration documents
of 1024 tokens, a quarter of the layers to go, a hundred million tokens of healing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from prune.estimates import memory, work
from prune.estimates.memory import Batch, Moments, Training
from prune.estimates.shape import Shape
from prune.estimates.work import Work

SHAPES = {"8B": (32, 4096, 14336, 32, 8), "70B": (80, 8192, 28672, 64, 8), "405B": (126, 16384, 53248, 128, 8)}
"""Layers, width, width of the MLP, heads, heads of keys and values."""
VOCABULARY, CARDS = 128256, (1, 8, 16)
DOCUMENTS, LENGTH, ROWS = 128, 1024, 4
HEALING_TOKENS, RANK = 100_000_000, 16
ITEMS, ITEM_TOKENS, NEW_TOKENS = 3000, 900, 256
USABLE = 0.92
"""Of a card's memory: the rest is the driver's, the allocator's and what products need."""
EFFORT = 0.115  # `plan.search_effort`


def llama(layers: int, width: int, wide: int, heads: int, shared: int) -> Shape:
    """A Llama in bfloat16, with a head of its own."""
    of_head = width // heads
    keys = shared * of_head
    layer = 2 * width * width + 2 * width * keys + 3 * width * wide + 2 * width
    linear = 4 * width + 2 * (width + keys) + 3 * (width + wide)
    return Shape(
        layers=layers, layer=layer, active=layer, linear=linear, outside=2 * VOCABULARY * width + width,
        head=VOCABULARY * width, vocabulary=VOCABULARY, width=width, wide=wide, heads=heads, attention=width,
        cached=2 * keys, item=2, stored=2,
    )  # fmt: skip


@dataclass(frozen=True)
class Means:
    """The machine: cards of `room` bytes, each with `flops` a second, and a disk that reads `read` bytes a second."""

    cards: int
    room: float
    flops: float
    read: float

    def hours(self, shape: Shape, done: Work, busy: int) -> float:
        """Of some work on so many cards at a time; two operations a weight and token."""
        return 2 * (done.layers * shape.active + done.heads * shape.head) / self.flops / busy / 3600


def placed(shape: Shape, moments: Moments, means: Means, streamed: Moments | None) -> tuple[str, float, int]:
    """How a model is laid out: flags, bytes a card, cards that compute at a time."""
    peak = max(moments.values())
    if peak <= means.room:
        many = f"torchrun --nproc_per_node={means.cards}" if means.cards > 1 else "-"
        return many, peak, means.cards
    spread = shape.weights / means.cards + (peak - shape.weights)
    if spread <= means.room:
        return "--device_map auto", spread, 1
    if streamed is not None and max(streamed.values()) <= means.room:
        return "--stream", max(streamed.values()), 1
    return "", 0.0, 0


def healed(shape: Shape, means: Means) -> tuple[str, float, int, Training]:
    """How the cut model is trained: with the original, from targets, or sharded."""
    depth = shape.layers * 3 // 4
    adapted = depth - (depth // 2 - 1)
    base = Training(depth, adapted, memory.adapters(shape, adapted, RANK), bf16=True, checkpointing=True)
    batch, many = Batch(1, LENGTH), f"torchrun --nproc_per_node={means.cards}" if means.cards > 1 else ""
    for flags, training in (
        ("--gradient_checkpointing", base),
        ("--gradient_checkpointing --targets", replace(base, teacher=False)),
    ):
        step = memory.healing(shape, batch, training)["a step of training"]
        if step <= means.room:
            return f"{many} {flags}".strip(), step, means.cards, training
    alone = replace(base, teacher=False)
    step = memory.healing(shape, batch, alone)["a step of training"]
    whole = shape.cut(depth).weights  # every card holds it before it is taken apart
    spread = 2 * whole / means.cards + step - whole + 2 * 4 * shape.layer  # FSDP shards float32
    if means.cards > 1 and max(whole, spread) <= means.room:
        return "accelerate launch --use_fsdp --fsdp_version 2, --targets", max(whole, spread), means.cards, alone
    return "", 0.0, 0, alone


def stages(shape: Shape, means: Means) -> Iterator[tuple[str, str, float, float, float]]:
    """Stage, flags, bytes a card, passes, hours; no flags where it does not fit."""
    batch, tokens = Batch(ROWS, LENGTH), DOCUMENTS * LENGTH
    streamed = memory.streamed(shape, batch, memory=4 << 30)
    flags, held, busy = placed(shape, memory.analysis(shape, batch), means, streamed)
    done = work.analysis(shape.layers, tokens, DOCUMENTS)
    reading = shape.file / means.read / 3600 if flags == "--stream" else 0
    yield "analyze", flags, held, done.passes(shape.layers), busy and means.hours(shape, done, busy) + reading
    gone = shape.layers // 4
    flags, held, busy = placed(shape, memory.planning(shape, batch, tokens), means, None)
    greedy = work.greedy(shape.layers, tokens, gone, effort=EFFORT)
    if flags:
        yield "plan, greedy", flags, held, greedy.passes(shape.layers), means.hours(shape, greedy, busy)
    else:
        yield "plan from the analysis", "--strategy one_shot", 0.0, 0.0, 0.0
    flags, held, busy, training = healed(shape, means)
    done = work.healing(shape.layers, HEALING_TOKENS, training)
    if "--targets" in flags:
        teacher = Work(HEALING_TOKENS, HEALING_TOKENS * shape.layers, HEALING_TOKENS)
        teaching = {"a batch": shape.weights + memory.forward(shape, batch)}
        taught, room, at_once = placed(shape, teaching, means, None)
        yield "teach", taught, room, 1.0, at_once and means.hours(shape, teacher, at_once)
    yield "heal", flags, held, done.passes(shape.layers), busy and means.hours(shape, done, busy)
    items = Batch(8, ITEM_TOKENS + NEW_TOKENS)
    passed = {"a batch": shape.weights + memory.forward(shape, items, all_logits=False)}
    flags, held, busy = placed(shape, passed, means, None)
    read = ITEMS * ITEM_TOKENS
    done = Work(read, read * shape.layers * 7 // 4, read * 2)  # the original, and one candidate of three quarters
    # Decoding reads all weights for every token of a batch.
    steps = ITEMS / items.rows * NEW_TOKENS * 1.75 * shape.weights / 2e12 / 3600 / max(1, busy)
    yield "eval of two models", flags, held, 1.75, busy and means.hours(shape, done, busy) + steps


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--card_gb", type=float, default=80)
    parser.add_argument("--tflops", type=float, default=400)
    parser.add_argument("--read_gb_s", type=float, default=4)
    asked = parser.parse_args()
    print("| model | cards | stage | how | GB a card | forward passes | hours |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, numbers in SHAPES.items():
        shape = llama(*numbers)
        for cards in CARDS:
            means = Means(cards, USABLE * asked.card_gb * 1e9, asked.tflops * 1e12, asked.read_gb_s * 1e9)
            for stage, flags, held, passes, hours in stages(shape, means):
                figures = f"{held / 1e9:.0f} | {passes:.1f} | {hours:.2g}" if flags else "- | - | -"
                how = f"`{flags}`" if flags not in ("", "-") else "as it is" if flags else "does not fit"
                print(f"| {name} | {cards} | {stage} | {how} | {figures} |")


if __name__ == "__main__":
    main()
