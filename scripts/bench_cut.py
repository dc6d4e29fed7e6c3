"""Speed and memory of `prune cut`: pairs in one run, medians, against `cp` of the same output bytes and mergekit.

A sharded Llama checkpoint of random bytes is written, a quarter of its layers dropped. Every round runs each way once
in a new process and deletes what it wrote; `--cold` drops the page cache before each (needs root). mergekit lives in
an environment of its own: `--mergekit VENV/bin/mergekit-yaml`.

    python scripts/bench_cut.py --gigabytes 3 --rounds 3 --cold
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
from pathlib import Path

LAYERS, WIDTH, DROP = 24, 2048, "12-17"
SHAPES = {
    "self_attn.q_proj": [WIDTH, WIDTH], "self_attn.k_proj": [WIDTH, WIDTH], "self_attn.v_proj": [WIDTH, WIDTH],
    "self_attn.o_proj": [WIDTH, WIDTH], "mlp.gate_proj": [0, WIDTH], "mlp.up_proj": [0, WIDTH],
    "mlp.down_proj": [WIDTH, 0],
}  # fmt: skip
MEMORY = (
    "import sys, re; from prune.surgery.cut import cut\n"
    "cut(sys.argv[1], sys.argv[2], drop_layers=sys.argv[3], verify=False)\n"
    "text = open('/proc/self/smaps_rollup').read()\n"
    "print(sum(int(n) for n in re.findall(r'Private_\\w+:\\s+(\\d+)', text)))"
)


def build(directory: Path, gigabytes: float) -> int:
    """Write the checkpoint in shards of four layers; the MLP's width makes up the size. Bytes written."""
    rest = gigabytes * 1e9 / LAYERS / 2 - 4 * WIDTH * WIDTH
    inner = max(64, int(rest / (3 * WIDTH)) // 64 * 64)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": LAYERS, "hidden_size": WIDTH,
        "intermediate_size": inner, "num_attention_heads": 16, "num_key_value_heads": 16, "vocab_size": 1000,
        "dtype": "bfloat16", "torch_dtype": "bfloat16", "tie_word_embeddings": False,
    }  # fmt: skip
    (directory / "config.json").write_text(json.dumps(config, indent=2))
    ends = {"model.embed_tokens.weight": [1000, WIDTH], "lm_head.weight": [1000, WIDTH], "model.norm.weight": [WIDTH]}
    groups = [[f"model.layers.{i}" for i in range(j, j + 4)] for j in range(0, LAYERS, 4)]
    weight_map: dict[str, str] = {}
    for number, group in enumerate(groups):
        tensors = dict(ends) if number == 0 else {}
        for layer in group:
            tensors |= {f"{layer}.{n}.weight": [x or inner for x in shape] for n, shape in SHAPES.items()}
            tensors |= {f"{layer}.{n}.weight": [WIDTH] for n in ("input_layernorm", "post_attention_layernorm")}
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


def timed(command: list[str], output: Path, cold: bool) -> float | None:
    """Wall seconds of a command that writes `output`, the sync of it included; None when it fails."""
    os.sync()
    if cold:
        Path("/proc/sys/vm/drop_caches").write_text("3")
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True)
    subprocess.run(["sync", "-f", str(output.parent)])
    seconds = time.monotonic() - began
    shutil.rmtree(output, ignore_errors=True)
    if done.returncode != 0:
        print(f"failed: {' '.join(command[:3])}: {(done.stderr.strip().splitlines() or ['?'])[-1][:200]}")
        return None
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cold", action="store_true", help="drop the page cache before every run (root)")
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
    source, output, same = root / "source", root / "out", root / "same"
    source.mkdir()
    size = build(source, arguments.gigabytes)
    line = [sys.executable, "-c", "from prune.cli import main; main()", "cut"]
    cut = [*line, str(source), "-o", str(output), "--drop_layers", DROP]
    subprocess.run([*line, str(source), "-o", str(same), "--drop_layers", DROP, "--no_verify", "--quiet"], check=True)
    ways = {"cp": ["cp", "--reflink=never", "-r", str(same), str(output)], "cut --no_verify": [*cut, "--no_verify"]}
    if arguments.proof:
        ways["cut with proof"] = cut
    if arguments.mergekit:
        slices = [{"sources": [{"model": str(source), "layer_range": r}]} for r in ([0, 12], [18, LAYERS])]
        recipe = {"slices": slices, "merge_method": "passthrough", "dtype": "bfloat16"}
        (root / "m.yaml").write_text(json.dumps(recipe))
        ways["mergekit-yaml"] = [arguments.mergekit, str(root / "m.yaml"), str(output)]
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(arguments.rounds):
        for name, command in ways.items():
            if (seconds := timed(command, output, arguments.cold)) is not None:
                times[name].append(seconds)
    cache = "cold" if arguments.cold else "warm"
    base = statistics.median(times["cp"])
    print(f"{size / 1e9:.2f} GB source, {cache} cache, {arguments.rounds} rounds, median seconds (x of cp):")
    for name, found in times.items():
        if found:
            print(f"  {name}: {statistics.median(found):.2f} ({statistics.median(found) / base:.2f})")
    memory = [sys.executable, "-c", MEMORY, str(source), str(output), DROP]
    print(f"  private memory of the cut: {int(subprocess.check_output(memory)) / 1024:.0f} MiB")
    begin = os.times().children_user
    subprocess.run([*cut, "--no_verify", "--dry_run", "--quiet"], capture_output=True)
    print(f"  start-up and planning: {os.times().children_user - begin:.2f} CPU s")


if __name__ == "__main__":
    main()
