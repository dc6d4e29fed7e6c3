"""The estimates that `prune run` prints, held against measured peaks: every step in a process of its own.

    python scripts/bench_estimate.py -o FOLDER --model demo --model SMOLLM2_DIR --model 1b [--steps analyze,heal]

`1b` is a Llama of 1.04 billion random weights, made here. Weights are computed in float32 on one CPU thread. A peak is
the largest anonymous resident memory (Linux), looked at every millisecond, above that of the process before it reads
the model, with libraries loaded: pages of the checkpoint's files, which the kernel keeps as long as it likes, are left
out. `MALLOC_MMAP_THRESHOLD_` makes the C library give freed tensors back at once, as a GPU's allocator counts them.
Results are kept in FOLDER, so an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

LLAMA = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
         "num_key_value_heads": 8, "vocab_size": 32768, "tie_word_embeddings": True,
         "max_position_embeddings": 4096}  # fmt: skip
SMALL = {**LLAMA, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 8, "num_attention_heads": 2,
         "num_key_value_heads": 2, "vocab_size": 128}  # fmt: skip
SIZES = {"small": (2, 16), "demo": (8, 160), "1b": (2, 64)}
"""Rows and tokens of a batch, by model; `OTHER` of any other."""
OTHER = (4, 128)
STEPS = ("analyze", "plan", "heal", "targets", "eval")


def resident(field: str) -> int:
    """Bytes of this process, from the kernel."""
    found = re.search(rf"^{field}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def make_llama(folder: Path, config: dict[str, Any]) -> Path:
    """A checkpoint of random weights in bfloat16, without a tokenizer."""
    if not (folder / "config.json").is_file():
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(0)
        LlamaForCausalLM(LlamaConfig(**config)).bfloat16().save_pretrained(folder)
    return folder


def dropped(layers: int) -> list[int]:
    """A quarter of the layers, above the middle."""
    return list(range(layers // 2, layers // 2 + layers // 4))


def rows(model: str, count: int, vocabulary: int) -> list[dict[str, list[int]]]:
    """Random documents of one length."""
    length = SIZES.get(model, OTHER)[1]
    draw = torch.Generator().manual_seed(1)
    return [{"input_ids": torch.randint(5, vocabulary, (length,), generator=draw).tolist()} for _ in range(count)]


def work(step: str, model: str, source: Path, folder: Path) -> tuple[dict[str, int], Callable[[], object]]:
    """The estimated moments of a step, and what runs it."""
    from transformers import AutoModelForCausalLM

    import prune
    from prune.checkpoint.source import resolve
    from prune.data.domains import Document, Domain
    from prune.estimates import memory
    from prune.estimates.memory import Batch, Training
    from prune.estimates.shape import shape_of
    from prune.healing.heal import heal
    from prune.healing.settings import HealSettings
    from prune.healing.targets import Targets
    from prune.model.loading import load_config, load_model
    from prune.surgery.signature import skeleton

    bones = skeleton(AutoModelForCausalLM, load_config(resolve(str(source))))
    shape = shape_of(bones, item=4, stored=2)
    size, length = SIZES.get(model, OTHER)
    batch, drop = Batch(size, length), dropped(shape.layers)
    data = {"text": rows(model, 2 * size, shape.vocabulary)}
    if step == "analyze":
        options = {"batch_size": size, "bootstrap": 20}
        return memory.analysis(shape, batch), lambda: prune.analyze(load_model(str(source)), data, **options)
    if step == "plan":
        keep = shape.layers - 2
        return memory.planning(shape, Batch(min(8, 2 * size), length), 2 * size * length), lambda: prune.plan(
            load_model(str(source)), data, num_layers=keep, strategy="greedy"
        )
    cut = folder / "cut"
    if not cut.is_dir():
        prune.cut(str(source), cut, drop_layers=drop, verify=False)
    kept = [layer for layer in range(shape.layers) if layer not in drop]
    if step == "eval":
        inputs = torch.tensor([row["input_ids"] for row in rows(model, size, shape.vocabulary)])

        def evaluated() -> None:
            loaded = load_model(str(source))
            with torch.inference_mode():
                loaded(inputs).logits.log_softmax(-1)

        return {"a pass": shape.weights + memory.forward(shape, batch)}, evaluated
    settings = HealSettings(max_steps=2, per_device_train_batch_size=size, max_length=length, eval_max_documents=2)
    adapted = len(kept) - max(0, min(drop[0] - 1, len(kept) - 3))
    training = Training(
        len(kept), adapted, memory.adapters(shape, adapted, settings.lora_r), teacher=step == "heal",
    )  # fmt: skip
    documents = tuple(Document(tuple(row["input_ids"])) for row in rows(model, 4 * size, shape.vocabulary))
    domains = {"text": Domain("text", documents, "random", "")}
    targets = None
    if step == "targets":
        place = folder / "targets"
        if not place.is_dir():
            prune.teach(
                load_model(str(source)),
                place,
                data={"text": rows(model, 4 * size, shape.vocabulary)},
                max_length=length,
            )
        targets = Targets(place)
        targets.require(domains, length, None)

    def healed() -> None:
        with tempfile.TemporaryDirectory() as scratch:
            student = load_model(str(cut))
            teacher = load_model(str(source)) if step == "heal" else None
            heal(student, teacher, domains, settings, kept_layers=kept, targets=targets, output_dir=Path(scratch))

    return memory.healing(shape, batch, training), healed


def measured(step: str, model: str, source: Path, folder: Path) -> dict[str, Any]:
    """One step here and now: the estimate, and the peak."""
    torch.set_num_threads(1)
    small = folder.parent / "small"
    work(step, "small", make_llama(small / "original", SMALL), small)[1]()  # libraries that load at first use
    _, run = work(step, model, source, folder)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = resident("RssAnon")
    with Watch() as watch:
        run()
    return {"peak": watch.highest - before, "libraries": before}


class Watch(threading.Thread):
    """Looks at this process's memory while something else is done.

    Attributes:
        highest: bytes.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.highest, self._done = 0, threading.Event()

    def run(self) -> None:
        while not self._done.wait(0.001):
            self.highest = max(self.highest, resident("RssAnon"))

    def __enter__(self) -> Watch:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self.join()


def main() -> None:
    """Measure what FOLDER lacks; print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--model", action="append", required=True)
    parser.add_argument("--steps", default=",".join(STEPS))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    lines = [
        "| model | step | at its peak | estimate, MB | measured, MB | ratio |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for model in asked.model:
        folder = asked.output / Path(model).name
        folder.mkdir(parents=True, exist_ok=True)
        if model == "1b":
            source = make_llama(folder / "original", LLAMA)
        elif model == "demo":
            from prune.embedded import MODEL

            source = MODEL
        else:
            source = Path(model)
        if asked.one:
            print(json.dumps(measured(asked.one, model, source, folder)))
            return
        for step in asked.steps.split(","):
            kept = folder / f"{step}.json"
            if not kept.is_file():
                command = [sys.executable, __file__, "-o", str(asked.output), "--model", model, "--one", step]
                environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "131072", "OMP_NUM_THREADS": "1"}
                done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
                kept.write_text(done.stdout.splitlines()[-1])
            found = json.loads(kept.read_text())
            moments, _ = work(step, model, source, folder)  # as the formulas are now
            name, estimate = max(moments.items(), key=lambda pair: pair[1])
            lines.append(
                f"| {Path(model).name} | {step} | {name} | {estimate / 1e6:,.0f} | {found['peak'] / 1e6:,.0f} | "
                f"{estimate / found['peak']:.2f} |"
            )
    print("\n".join(lines))


if __name__ == "__main__":
    main()
