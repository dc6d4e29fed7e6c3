"""Speed and memory of `prune cut`: pairs in one run, medians, against `cp` of the same output bytes and mergekit.

A sharded Llama checkpoint of random bytes is written, a quarter of its layers dropped. Every round runs each way once
in a new process and deletes what it wrote; `--cold` has the system forget the checkpoints' pages before each. What does
not grow with the checkpoint is timed beside it: `prune cut --dry_run` starts, checks and plans, and copies nothing.
mergekit lives in an environment of its own: `--mergekit VENV/bin/mergekit-yaml`. `--part gguf` does the same with a
GGUF file of quantised tensors, where the comparison of every tensor with the source is timed beside the cut without it.

    python scripts/bench_cut.py --gigabytes 3 --rounds 3 --cold
    python scripts/bench_cut.py --gigabytes 3 --rounds 3 --part gguf
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy

LAYERS, DROP = 24, "12-17"
MEMORY = (
    "import sys, re; from prune.surgery.cut import cut\n"
    "cut(sys.argv[1], sys.argv[2], drop_layers=sys.argv[3], verify=False)\n"
    "text = open('/proc/self/smaps_rollup').read()\n"
    "print(sum(int(n) for n in re.findall(r'Private_\\w+:\\s+(\\d+)', text)))"
)


def build(directory: Path, gigabytes: float) -> int:
    """Write the checkpoint in shards of four layers; the MLP's width makes up the size. Bytes written."""
    width = 2048 if gigabytes >= 1 else 1024
    rest = gigabytes * 1e9 / LAYERS / 2 - 4 * width * width
    inner = max(64, int(rest / (3 * width)) // 64 * 64)
    shapes = {f"self_attn.{name}_proj": [width, width] for name in "qkvo"}
    shapes |= {"mlp.gate_proj": [inner, width], "mlp.up_proj": [inner, width], "mlp.down_proj": [width, inner]}
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": LAYERS, "hidden_size": width,
        "intermediate_size": inner, "num_attention_heads": 16, "num_key_value_heads": 16, "vocab_size": 1000,
        "dtype": "bfloat16", "torch_dtype": "bfloat16", "tie_word_embeddings": False,
    }  # fmt: skip
    (directory / "config.json").write_text(json.dumps(config, indent=2))
    ends = {"model.embed_tokens.weight": [1000, width], "lm_head.weight": [1000, width], "model.norm.weight": [width]}
    groups = [[f"model.layers.{i}" for i in range(j, j + 4)] for j in range(0, LAYERS, 4)]
    weight_map: dict[str, str] = {}
    for number, group in enumerate(groups):
        tensors = dict(ends) if number == 0 else {}
        for layer in group:
            tensors |= {f"{layer}.{n}.weight": shape for n, shape in shapes.items()}
            tensors |= {f"{layer}.{n}.weight": [width] for n in ("input_layernorm", "post_attention_layernorm")}
        name = f"model-{number + 1:05d}-of-{len(groups):05d}.safetensors"
        weight_map |= dict.fromkeys(tensors, name)
        _write(directory / name, tensors)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return sum(path.stat().st_size for path in directory.iterdir())


def _write(path: Path, tensors: dict[str, list[int]]) -> None:
    table, at = {}, 0
    for name, shape in tensors.items():
        size = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        table[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    raw = json.dumps(table).encode()
    raw += b" " * (-len(raw) % 8)
    block = bytes(b & 0xBF for b in os.urandom(1 << 20))  # no bfloat16 NaN among them
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        for begin in range(0, at, len(block)):
            file.write(block[: at - begin])


def build_gguf(path: Path, gigabytes: float) -> int:
    """Write a Llama of Q4_K and Q6_K tensors with random blocks; the MLP's width makes up the size. Bytes written."""
    import gguf

    q4, q6 = gguf.GGMLQuantizationType.Q4_K, gguf.GGMLQuantizationType.Q6_K
    width = 2048
    inner = int((gigabytes * 1e9 / LAYERS - 4 * width * width * 144 / 256) / (width * 498 / 256)) // 256 * 256
    shapes = {f"attn_{name}": (width, width) for name in ("q", "k", "v", "output")}
    shapes |= {"ffn_gate": (inner, width), "ffn_up": (inner, width), "ffn_down": (width, inner)}
    file = gguf.GGUFWriter(path, "llama")
    file.add_block_count(LAYERS)
    sizes = []

    def add(name: str, shape: tuple[int, int], kind: gguf.GGMLQuantizationType) -> None:
        rows = (shape[0], shape[1] // 256 * gguf.GGML_QUANT_SIZES[kind][1])
        sizes.append(rows[0] * rows[1])
        file.add_tensor_info(name, rows, numpy.dtype(numpy.uint8), sizes[-1], raw_dtype=kind)

    add("token_embd.weight", (32000, width), q6)
    for layer in range(LAYERS):
        for name, shape in shapes.items():
            add(f"blk.{layer}.{name}.weight", shape, q6 if name == "ffn_down" else q4)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_ti_data_to_file()
    file.close()
    block = os.urandom(1 << 20)
    with path.open("ab") as output:
        output.write(bytes(-output.tell() % 32))
        for size in sizes:
            for begin in range(0, size, len(block)):
                output.write(block[: size - begin])
            output.write(bytes(-output.tell() % 32))
    return path.stat().st_size


def forget(*directories: Path) -> None:
    """Have the system drop the cached (clean) pages of all files there."""
    for path in (p for d in directories for p in (d.iterdir() if d.is_dir() else [d])):
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def timed(command: list[str], output: Path, cold: Sequence[Path]) -> float | None:
    """Wall seconds of a command that writes `output`, the sync of it included; None when it fails.

    Args:
        cold: directories to forget first.
    """
    os.sync()
    forget(*cold)
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True)
    subprocess.run(["sync", "-f", str(output.parent)])
    seconds = time.monotonic() - began
    remove(output)
    if done.returncode != 0:
        print(f"failed: {' '.join(command[:3])}: {(done.stderr.strip().splitlines() or ['?'])[-1][:200]}")
        return None
    return seconds


def remove(output: Path) -> None:
    """A directory or a file."""
    if output.is_dir():
        shutil.rmtree(output)
    else:
        output.unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cold", action="store_true", help="drop the checkpoints from the page cache before every run")
    parser.add_argument("--part", choices=["safetensors", "gguf"], default="safetensors")
    parser.add_argument("--proof", action="store_true", help="also time the cut with its proof")
    parser.add_argument("--mergekit", help="path of mergekit-yaml in its own environment")
    parser.add_argument("--directory", default=None, help="where to work; needs 2.6 x the size")
    arguments = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="bench-cut-", dir=arguments.directory))
    try:
        measure(root, arguments)
    finally:
        shutil.rmtree(root)


def measure(root: Path, arguments: argparse.Namespace) -> None:
    ending = ".gguf" if arguments.part == "gguf" else ""
    source, output, same = (root / f"{name}{ending}" for name in ("source", "out", "same"))
    if arguments.part == "gguf":
        size = build_gguf(source, arguments.gigabytes)
    else:
        source.mkdir()
        size = build(source, arguments.gigabytes)
    line = [sys.executable, "-c", "from prune.cli import main; main()", "cut"]
    cut = [*line, str(source), "-o", str(output), "--drop_layers", DROP]
    subprocess.run([*line, str(source), "-o", str(same), "--drop_layers", DROP, "--no_verify", "--quiet"], check=True)
    ways = {
        "cp": ["cp", "--reflink=never", "-r", str(same), str(output)],
        "cut --no_verify": [*cut, "--no_verify"],
        "cut --dry_run": [*cut, "--no_verify", "--dry_run", "--quiet"],
    }
    if arguments.proof or arguments.part == "gguf":
        ways["cut with proof"] = cut
    if arguments.mergekit:
        slices = [{"sources": [{"model": str(source), "layer_range": r}]} for r in ([0, 12], [18, LAYERS])]
        recipe = {"slices": slices, "merge_method": "passthrough", "dtype": "bfloat16"}
        (root / "m.yaml").write_text(json.dumps(recipe))
        ways["mergekit-yaml"] = [arguments.mergekit, str(root / "m.yaml"), str(output)]
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(arguments.rounds):
        for name, command in ways.items():
            if (seconds := timed(command, output, [source, same] if arguments.cold else [])) is not None:
                times[name].append(seconds)
    cache = "cold" if arguments.cold else "warm"
    medians = {name: statistics.median(found) for name, found in times.items() if found}
    print(
        f"{size / 1e9:.2f} GB source, {cache} cache, {arguments.rounds} rounds, median seconds (x of cp), all seconds:"
    )
    for name, seconds in medians.items():
        each = ", ".join(f"{value:.2f}" for value in times[name])
        print(f"  {name}: {seconds:.2f} ({seconds / medians['cp']:.2f})  [{each}]")
    copying = medians["cut --no_verify"] - medians["cut --dry_run"]
    print(f"  cut less what does not grow: {copying:.2f} ({copying / medians['cp']:.2f})")
    code = MEMORY.replace("prune.surgery.cut import cut", "prune.gguf.cut import cut_file as cut") if ending else MEMORY
    memory = [sys.executable, "-c", code, str(source), str(output), DROP]
    print(f"  private memory of the cut: {int(subprocess.check_output(memory)) / 1024:.0f} MiB")
    remove(output)
    before = os.times()
    subprocess.run(ways["cut --dry_run"], capture_output=True, check=True)
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    print(f"  start-up and planning: {used:.2f} CPU s")


if __name__ == "__main__":
    main()
