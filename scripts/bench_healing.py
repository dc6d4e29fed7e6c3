"""Step time of healing against plain transformers Trainer + peft on the same batches, side by side in one process.

Three trainers take turns, a few steps at a time, in alternating order; the first step of every turn is not counted.
Reported are the medians of the ratios: only these carry over to other machines. On CPU the time is the process's own
CPU time on one thread, so that other programs on the machine do not count.

    python scripts/bench_healing.py [--turns 4] [--steps 4] [--json]
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, Qwen3Config, Qwen3ForCausalLM, Trainer, TrainerCallback

from prune.calibration import Document, Domain
from prune.healing.data import Collator, TrainingSet, split_domains
from prune.healing.heal import training_arguments
from prune.healing.methods import attach
from prune.healing.settings import HealSettings
from prune.healing.sharing import SharedWeights
from prune.healing.trainer import HealTrainer, Task
from prune.surgery.memory import drop_layers

# Qwen 3 shapes with random weights.
SHAPES = {
    "demo": {"hidden_size": 128, "intermediate_size": 320, "vocab_size": 2048, "num_hidden_layers": 16},
    "wide": {"hidden_size": 512, "intermediate_size": 1408, "vocab_size": 8192, "num_hidden_layers": 16},
}
DROPPED = 4  # a quarter


def now() -> float:
    """Seconds: of this process on CPU, of the wall on an accelerator."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


class Clock(TrainerCallback):
    """Seconds of every optimiser step but the first, forward to weights."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.began = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.began = now()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step > 1:
            self.steps.append(now() - self.began)


class Rows(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """The batches of our training set, each as one ready item for the plain Trainer."""

    def __init__(self, source: TrainingSet, collator: Collator, size: int) -> None:
        self.batches = [
            collator([source[i] for i in range(b, b + size)]) for b in range(0, len(source) // size * size, size)
        ]

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return self.batches[index]


def build(shape: str) -> tuple[Qwen3ForCausalLM, Qwen3ForCausalLM, list[int]]:
    """Teacher, student and the layers it kept."""
    torch.manual_seed(0)
    size = SHAPES[shape]
    heads = size["hidden_size"] // 64 or 1
    teacher = Qwen3ForCausalLM(
        Qwen3Config(**size, num_attention_heads=heads, num_key_value_heads=heads, head_dim=64,
                    max_position_embeddings=1024, tie_word_embeddings=True)
    ).eval()  # fmt: skip
    drop = list(range(10, 10 + DROPPED))
    student = drop_layers(copy.deepcopy(teacher), drop)
    return teacher, student, [i for i in range(size["num_hidden_layers"]) if i not in drop]


def documents(vocabulary: int, prompted: bool) -> Domain:
    """Random documents of 64 to 256 tokens; with prompts, three quarters of each are not predicted."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for _ in range(400):
        length = int(torch.randint(64, 257, (), generator=generator))
        ids = tuple(torch.randint(2, vocabulary, (length,), generator=generator).tolist())
        made.append(Document(ids, length * 3 // 4 if prompted else 1))
    return Domain("random", tuple(made), "random", "")


def turn(kind: str, shape: str, settings: HealSettings, prompted: bool, folder: Path) -> list[float]:
    """Train afresh for a few steps and give their times."""
    teacher, student, kept = build(shape)
    domain = documents(SHAPES[shape]["vocab_size"], prompted)
    split = split_domains({"random": domain}, max_length=settings.max_length, eval_fraction=0.01, eval_max_documents=1,
                          seed=0)  # fmt: skip
    size = settings.per_device_train_batch_size
    data = TrainingSet(split, rows=size * settings.max_steps, batch_size=size, max_length=settings.max_length,
                       packing=settings.packing, seed=0)  # fmt: skip
    collator = Collator(0, settings.packing)
    clock = Clock()
    arguments = training_arguments(settings, folder)
    arguments.eval_strategy, arguments.logging_steps = "no", settings.max_steps
    trainer: Trainer
    if kind == "plain":
        arguments.per_device_train_batch_size = 1  # an item is a whole batch
        rows = Rows(data, collator, size)
        trainer = Trainer(
            attach(student, settings), arguments, train_dataset=rows, data_collator=lambda items: items[0]
        )
        trainer.remove_callback(PrinterCallback)
        trainer._get_train_sampler = lambda *_: torch.utils.data.SequentialSampler(rows)  # type: ignore[method-assign]
    else:
        settings = settings.model_copy(
            update={"distill_weight": 1.0, "next_token_weight": 0.0} if kind == "distill" else {}
        )
        SharedWeights(student, teacher, kept)
        model = attach(student, settings)
        task = Task(settings, split, data, collator, model.get_output_embeddings(),
                    teacher if kind == "distill" else None, [], {})  # fmt: skip
        trainer = HealTrainer(model, task, arguments)
    trainer.add_callback(clock)
    trainer.train()
    return clock.steps


def measure(shape: str, prompted: bool, turns: int, steps: int, folder: Path) -> dict[str, Any]:
    """Medians and ratios for one shape and one kind of document."""
    settings = HealSettings(
        max_steps=steps + 1, per_device_train_batch_size=4, max_length=256, distill_weight=0, next_token_weight=1,
        lora_r=16, eval_steps=10_000, packing=not prompted,
    )  # fmt: skip
    times: dict[str, list[float]] = {"plain": [], "next_token": [], "distill": []}
    ratios: dict[str, list[float]] = {"next_token": [], "distill": []}
    for number in range(turns):
        order = list(times) if number % 2 == 0 else list(times)[::-1]
        found = {kind: turn(kind, shape, settings, prompted, folder / f"{kind}{number}") for kind in order}
        for kind, seconds in found.items():
            times[kind] += seconds
            if kind != "plain":
                ratios[kind] += [a / b for a, b in zip(seconds, found["plain"], strict=True)]
    plain = statistics.median(times["plain"])
    return {
        "shape": shape,
        "documents": "prompts, a quarter predicted" if prompted else "packed text",
        "plain_ms": 1000 * plain,
        "throughput_ratio": 1 / statistics.median(ratios["next_token"]),
        "distill_step_ratio": statistics.median(ratios["distill"]),
        "steps": len(times["plain"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--shapes", default="demo,wide")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=FutureWarning)
    show: Callable[[str], None] = (lambda _: None) if options.json else print
    show("| model | documents | throughput against Trainer + peft | step time with distillation | steps |")
    show("| --- | --- | --- | --- | --- |")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for shape in options.shapes.split(","):
            for prompted in (False, True):
                place = Path(folder) / f"{shape}{prompted}"
                row = measure(shape, prompted, options.turns, options.steps, place)
                rows.append(row)
                show(
                    f"| {shape} | {row['documents']} | {row['throughput_ratio']:.2f} x | "
                    f"{row['distill_step_ratio']:.2f} x | {row['steps']} |"
                )
    if options.json:
        print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
