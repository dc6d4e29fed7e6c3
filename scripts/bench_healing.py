"""Step time of healing against plain transformers Trainer + peft on the same batches, side by side in one process.

Plain is what a user of peft would write (adapters on all linear layers of all layers), and once more with adapters on
the very modules that ours trains. Ours is the default (adapters from the first gap on), without and with distillation,
and distillation with adapters on all layers. The trainers, each in a thread of its own, take turns step by step: only
one runs at a time. A step lasts from its begin to the next one's, data included; the first is not counted. Reported
are medians of the ratios between neighbouring steps: only ratios carry over to other machines. On CPU the time is the
thread's own CPU time with one torch thread, so that other programs on the machine count as little as can be.

    python scripts/bench_healing.py [--steps 12] [--shapes demo,wide] [--json]
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import statistics
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, Qwen3Config, Qwen3ForCausalLM, Trainer, TrainerCallback, TrainingArguments

from prune.data.domains import Document, Domain
from prune.healing.data import Collator, TrainingSet, split_domains
from prune.healing.heal import training_arguments
from prune.healing.methods import attach
from prune.healing.prefix import find_prefix
from prune.healing.settings import HealSettings
from prune.healing.sharing import SharedWeights
from prune.healing.trainer import HealTrainer, Task
from prune.model.loading import load_model
from prune.surgery.loaded import drop_layers

# Qwen 3 shapes with random weights.
SHAPES = {
    "demo": {"hidden_size": 128, "intermediate_size": 320, "vocab_size": 2048, "num_hidden_layers": 16},
    "wide": {"hidden_size": 512, "intermediate_size": 1408, "vocab_size": 8192, "num_hidden_layers": 16},
}
DROPPED = 4  # a quarter
REAL_DROPPED = [4, 12, 13, 14, 25, 26]
"""Of SmolLM2's 30 layers, as the study's search chose them."""
KINDS = {
    "plain, all layers": (False, "all", False),
    "plain": (False, "from_gap", False),
    "next token": (True, "from_gap", False),
    "distillation": (True, "from_gap", True),
    "distillation, all layers": (True, "all", True),
}
"""What is timed: ours or plain, layers with adapters, whether a teacher runs."""


class Baton(TrainerCallback):
    """Lets one trainer run at a time, and keeps the seconds of its steps."""

    def __init__(self, turns: list[threading.Semaphore], place: int) -> None:
        self.turns, self.place = turns, place
        self.steps: list[float] = []
        self.began: float | None = None

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.began is not None:
            self.steps.append(self._now() - self.began)
            self._pass_on()
        self.turns[self.place].acquire()
        self.began = self._now()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._pass_on()

    def _pass_on(self) -> None:
        self.turns[(self.place + 1) % len(self.turns)].release()

    @staticmethod
    def _now() -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.thread_time()


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


def build(shape: str) -> tuple[Any, Any, list[int]]:
    """Teacher, student and the layers it kept; of a shape, or of a checkpoint's directory without `REAL_DROPPED`."""
    torch.manual_seed(0)
    if shape not in SHAPES:
        teacher = load_model(shape)
        kept = [i for i in range(teacher.config.num_hidden_layers) if i not in REAL_DROPPED]
        return teacher, drop_layers(copy.deepcopy(teacher), REAL_DROPPED), kept
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


def build_trainer(
    kind: str, shape: str, settings: HealSettings, domains: Mapping[str, Domain] | bool, folder: Path
) -> Trainer:
    """A trainer of one of `KINDS` on the same rows in the same order as the others."""
    ours, layers, distils = KINDS[kind]
    settings = settings.model_copy(update={"lora_layers": layers})
    teacher, student, kept = build(shape)
    if isinstance(domains, bool):
        domains = {"random": documents(teacher.config.vocab_size, prompted=domains)}
    length, size = settings.max_length, settings.per_device_train_batch_size
    split = split_domains(domains, max_length=length, eval_fraction=0.01, eval_max_documents=1, seed=0)
    rows = size * settings.max_steps
    data = TrainingSet(split, rows=rows, step=size, max_length=length, packing=settings.packing, seed=0)
    collator = Collator(0, settings.packing)
    arguments = training_arguments(settings, folder / kind)
    arguments.eval_strategy, arguments.logging_steps = "no", settings.max_steps
    if not ours:
        return plain_trainer(attach(student, settings, kept), arguments, Rows(data, collator, size))
    task = Task(settings, split, data, collator, {})
    if distils:
        settings = settings.model_copy(update={"distill_weight": 1.0, "next_token_weight": 0.5})  # the defaults
        SharedWeights(student, teacher, kept)
    model = attach(student, settings, kept)
    if distils:
        task = replace(task, settings=settings, teacher=teacher, prefix=find_prefix(model, teacher, kept))
    return HealTrainer(model, replace(task, head=model.get_output_embeddings()), arguments)


def plain_trainer(model: torch.nn.Module, arguments: TrainingArguments, batches: Rows) -> Trainer:
    """transformers' Trainer with its own loss, in the order of the rows."""
    arguments.per_device_train_batch_size = 1  # an item is a whole batch
    trainer = Trainer(model, arguments, train_dataset=batches, data_collator=lambda items: items[0])
    trainer.remove_callback(PrinterCallback)
    trainer._get_train_sampler = lambda *_: torch.utils.data.SequentialSampler(batches)  # type: ignore[method-assign]
    return trainer


def measure(
    shape: str,
    domains: Mapping[str, Domain] | bool,
    steps: int,
    folder: Path,
    kinds: Sequence[str] = tuple(KINDS),
    size: int = 4,
) -> dict[str, Any]:
    """Median ratios for one shape and some documents, batches of `size` rows; nan for what is not timed.

    Args:
        domains: documents, or whether random ones begin with a prompt; those are not packed.
    """
    prompted = domains is True
    settings = HealSettings(
        max_steps=steps + 2, per_device_train_batch_size=size, max_length=256, distill_weight=0, next_token_weight=1,
        learning_rate=1e-3, lora_r=16, eval_steps=10_000, packing=not prompted,
    )  # fmt: skip
    turns = [threading.Semaphore(int(i == 0)) for i in range(len(kinds))]
    batons = [Baton(turns, i) for i in range(len(kinds))]
    threads = []
    for kind, baton in zip(kinds, batons, strict=True):
        trainer = build_trainer(kind, shape, settings, domains, folder)
        trainer.add_callback(baton)
        threads.append(threading.Thread(target=trainer.train))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = {kind: baton.steps[1:] for kind, baton in zip(kinds, batons, strict=True)}

    def ratio(kind: str, against: str) -> float:
        if not {kind, against} <= set(kinds):
            return math.nan
        return statistics.median(a / b for a, b in zip(seconds[kind], seconds[against], strict=True))

    return {
        "shape": shape,
        "documents": "prompts, a quarter predicted" if prompted else "packed text",
        "plain_ms": 1000 * statistics.median(seconds[kinds[0]]),
        "throughput_ratio": 1 / ratio("next token", "plain"),
        "distill_step_ratio": ratio("distillation", "plain, all layers"),
        "distill_step_ratio_same_adapters": ratio("distillation", "plain"),
        "distill_all_layers_step_ratio": ratio("distillation, all layers", "plain, all layers"),
        "steps": len(seconds["plain"]),
    }


HEADINGS = {
    "throughput_ratio": "throughput, same adapters",
    "distill_step_ratio": "distillation, against adapters everywhere",
    "distill_step_ratio_same_adapters": "distillation, same adapters",
    "distill_all_layers_step_ratio": "distillation with adapters everywhere, same adapters",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--shapes", default="demo,wide")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=FutureWarning)
    show: Callable[[str], None] = (lambda _: None) if options.json else print
    show(f"| model | documents | {' | '.join(HEADINGS.values())} | steps |")
    show("| --- " * (len(HEADINGS) + 3) + "|")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for shape in options.shapes.split(","):
            for prompted in (False, True):
                place = Path(folder) / f"{shape}{prompted}"
                row = measure(shape, prompted, options.steps, place)
                rows.append(row)
                ratios = " | ".join(f"{row[name]:.2f} x" for name in HEADINGS)
                show(f"| {shape} | {row['documents']} | {ratios} | {row['steps']} |")
    if options.json:
        print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
