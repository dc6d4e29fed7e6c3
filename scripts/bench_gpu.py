"""Speed and memory at the size of real models, random weights: healing (LoRA, QLoRA), generation, kinds of attention.

A Llama-shaped checkpoint is made and cut with `prune.cut`, a quarter of its layers above the middle. Then: `heal` with
distillation from the original, packed rows, default adapters (tokens/s over its steps without the first, held-out
evaluations excluded; peak memory of the whole run, both models, evaluations and merge included); and generation with
the KV cache, original and cut checkpoint side by side; and, for each `--attn_implementation` that works here and for
`torch.compile` of every layer, forward passes and training steps against those of transformers' own choice, in turns.
On a CPU `--preset tiny` shows that it runs.

    python scripts/bench_gpu.py --device cuda --preset 1b [--part heal,generate,kernels] [--steps 12] [--json]
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from transformers import AutoModelForCausalLM, LlamaConfig

import prune
from evals.peak_memory import peak_memory_bytes
from evals.throughput import measure_side_by_side
from prune.checkpoint.source import resolve
from prune.data.domains import Document, Domain
from prune.healing.heal import HealResult, heal
from prune.healing.settings import HealSettings
from prune.model.loading import load_model

MIB = 1 << 20
KERNELS = ("sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention", "torch.compile")
"""The first is what the others are compared with; the last is the first with its layers compiled."""
PRESETS = {
    "tiny": {"hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 8, "num_attention_heads": 4,
             "num_key_value_heads": 2, "vocab_size": 1024},
    "135m": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
             "num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": True},
    "1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
           "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": True},
    "8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
           "num_key_value_heads": 8, "vocab_size": 128256},
}  # fmt: skip


def checkpoints(folder: Path, preset: str, asked: argparse.Namespace) -> tuple[str, str]:
    """Directories of the original and of the cut model."""
    torch.manual_seed(0)
    config = LlamaConfig(**PRESETS[preset], max_position_embeddings=4096)
    with torch.device(asked.device):
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, asked.dtype))
    model.save_pretrained(folder / "original")
    depth = config.num_hidden_layers
    dropped = list(range(depth * 5 // 8, depth * 5 // 8 + depth // 4))
    prune.cut(str(folder / "original"), folder / "cut", drop_layers=dropped, verify=False)
    return str(folder / "original"), str(folder / "cut")


def documents(count: int, length: int, vocabulary: int) -> Domain:
    """Random tokens."""
    rows = torch.randint(2, vocabulary, (count, length), generator=torch.Generator().manual_seed(1)).tolist()
    return Domain("random", tuple(Document(tuple(row)) for row in rows), "random", "")


def healing(method: str, original: str, cut: str, folder: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """Tokens/s and peak memory of one run of healing."""
    settings = HealSettings(
        method=method, max_steps=asked.steps, per_device_train_batch_size=asked.batch_size, max_length=asked.length,
        eval_steps=asked.steps, eval_max_documents=4, bf16=asked.dtype == "bfloat16",
    )  # fmt: skip
    teacher = load_model(original, dtype=asked.dtype, device=asked.device)
    domain = documents(2 * asked.batch_size * asked.steps, asked.length // 2, teacher.config.vocab_size)
    results: list[HealResult] = []

    def run() -> None:
        student = load_model(cut, dtype=asked.dtype, device=asked.device)
        results.append(heal(student, teacher, {"random": domain}, settings, output_dir=folder / method))

    peak = peak_memory_bytes(teacher, run)
    logged = [entry["seconds"] for entry in results[0].history if "loss" in entry]  # one a step; evaluations follow
    seconds = statistics.median(b - a for a, b in itertools.pairwise(logged))
    return {
        "method": method,
        "tokens_per_s": results[0].tokens_seen / results[0].steps / seconds,
        "peak_mib": None if peak is None else peak / MIB,
        "trained_parameters": results[0].trained_parameters,
        "shared_mib": results[0].shared_bytes / MIB,
        "shared_layers": results[0].shared_layers,
    }


def generating(original: str, cut: str, asked: argparse.Namespace) -> dict[str, Any]:
    """Both checkpoints with the KV cache, and how much faster the cut one is."""
    models = {
        name: load_model(path, dtype=asked.dtype, device=asked.device)
        for name, path in (("original", original), ("cut", cut))
    }
    found = measure_side_by_side(
        models, batch_size=asked.batch_size, prompt_tokens=asked.length, new_tokens=asked.new_tokens, repeats=5
    )
    before, after = found["original"], found["cut"]
    return {
        "layers": [model.config.num_hidden_layers for model in models.values()],
        "prefill_speedup": after.prefill_tokens_per_s / before.prefill_tokens_per_s,
        "decode_speedup": after.decode_tokens_per_s / before.decode_tokens_per_s,
        "models": {name: speed.to_dict() for name, speed in found.items()},
    }


def kernels(original: str, asked: argparse.Namespace) -> list[dict[str, Any]]:
    """How many times faster forward passes and training steps are than with the first of `KERNELS`.

    The kinds take turns, so that a machine that gets slower slows them all; the median of the turns' ratios counts.
    """
    ids = torch.randint(2, 1000, (asked.batch_size, asked.length), device=asked.device)  # [B, T]
    models, rows = {}, {name: {"name": name} for name in KERNELS}
    for name in KERNELS:
        kind = "sdpa" if name == "torch.compile" else name
        began = time.perf_counter()
        try:
            source = resolve(original, dtype=asked.dtype, attn_implementation=kind)
            model = load_model(source, device=asked.device)
            if name == "torch.compile":
                for layer in model.model.layers:
                    layer.compile()
            forward(model, ids), training_step(model, ids)
        except Exception as error:  # a package, a compiler or a card that is not here
            rows[name]["reason"] = " ".join(str(error).split()).removeprefix(f"{original}: ")[:120]
        else:
            models[name], rows[name]["first_s"] = model, time.perf_counter() - began
    for what in (forward, training_step):
        turns = [{name: what(model, ids) for name, model in models.items()} for _ in range(5)]
        for name in models:
            rows[name][what.__name__] = statistics.median(turn["sdpa"] / turn[name] for turn in turns)
    return list(rows.values())


def forward(model: Any, ids: torch.Tensor) -> float:
    """Seconds of a pass over [B, T] without a cache."""
    with torch.no_grad():
        return timed(lambda: model.model(input_ids=ids, use_cache=False), ids.device)


def training_step(model: Any, ids: torch.Tensor) -> float:
    """Seconds of a pass over [B, T] and back."""
    model.zero_grad()
    return timed(lambda: model(input_ids=ids, labels=ids, use_cache=False).loss.backward(), ids.device)


def timed(work: Callable[[], Any], device: torch.device) -> float:
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    began = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--preset", choices=PRESETS, default="tiny")
    parser.add_argument("--part", default="heal,generate,kernels", help="names with commas")
    parser.add_argument("--steps", type=int, default=12, help="of healing; at most 39, so that each is logged")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--length", type=int, default=512, help="tokens in a packed row, and in a prompt")
    parser.add_argument("--new_tokens", type=int, default=128)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    if not 3 <= asked.steps <= 39:
        parser.error("--steps: 3 to 39")
    warnings.filterwarnings("ignore", category=FutureWarning)
    began, report = time.monotonic(), {**vars(asked), "device_name": device_name(asked.device)}
    with tempfile.TemporaryDirectory() as directory:
        original, cut = checkpoints(Path(directory), asked.preset, asked)
        if "heal" in asked.part.split(","):
            report["heal"] = [healing(m, original, cut, Path(directory), asked) for m in ("lora", "qlora")]
        if "generate" in asked.part.split(","):
            report["generate"] = generating(original, cut, asked)
        if "kernels" in asked.part.split(","):
            report["kernels"] = kernels(original, asked)
    report["seconds"] = time.monotonic() - began
    print(json.dumps(report, indent=2) if asked.json else table(report))


def device_name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu"


def table(report: dict[str, Any]) -> str:
    """The report in Markdown."""
    shape = f"{report['preset']}, {report['dtype']}, {report['device_name']}"
    lines = [f"{shape}: rows of {report['length']} tokens, {report['batch_size']} at a time"]
    if "heal" in report:
        lines += [
            "",
            "| healing | tokens/s | peak MiB | trained parameters | shared MiB | shared layers |",
            "| --- " * 6 + "|",
        ]
        for row in report["heal"]:
            peak = "unknown" if row["peak_mib"] is None else f"{row['peak_mib']:.0f}"
            lines.append(
                f"| {row['method']} | {row['tokens_per_s']:.0f} | {peak} | {row['trained_parameters']:,} | "
                f"{row['shared_mib']:.0f} | {row['shared_layers']} |"
            )
    if "generate" in report:
        found = report["generate"]
        lines += ["", "| generation | prefill tokens/s | decode tokens/s | peak MiB |", "| --- " * 4 + "|"]
        for name, speed in found["models"].items():
            peak = speed["peak_memory_bytes"]
            words = "unknown" if peak is None else f"{peak / MIB:.0f}"
            rates = f"{speed['prefill_tokens_per_s']:.0f} | {speed['decode_tokens_per_s']:.0f}"
            lines.append(f"| {name} | {rates} | {words} |")
        faster = f"{found['prefill_speedup']:.2f} x in prefill, {found['decode_speedup']:.2f} x in decoding"
        lines.append(f"\n{found['layers'][1]} of {found['layers'][0]} layers: {faster}")
    if "kernels" in report:
        lines += ["", "| attention | forward passes | training steps | load and first of each, s |", "| --- " * 4 + "|"]
        for row in report["kernels"]:
            if "reason" in row:
                lines.append(f"| {row['name']} | {row['reason']} | | |")
            else:
                lines.append(
                    f"| {row['name']} | {row['forward']:.2f} x | {row['training_step']:.2f} x | {row['first_s']:.0f} |"
                )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
