#!/usr/bin/env python3
"""Does a cut model's speed follow its layers in every runtime? The original and the cut take turns, in each.

    .venv/bin/python scripts/runtime_speed.py -o runs/runtimes             # minutes a runtime; resumable
    .venv/bin/python scripts/runtime_speed.py -o runs/runtimes --table     # into prune/packaging/README.md

SmolLM2 with 30 layers and without six, batch 1, one thread, float32. Prefill: one token after a prompt; decode: many
tokens after a short prompt, less one token after it. Processor seconds of the runtime's process, so that other work on
the machine counts little; A B A B, and the median of the ratios of neighbours. The head reads every embedding for every
token and stays, so that no runtime can give the whole share of the layers (30 / 24): beside it stands the share of
parameters that a token reads.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))
from runtime_matrix import README, prompts_for
from runtime_models import MODELS, Case, gguf_of, prepare

from evals.runtimes import installed
from evals.worker import RUNTIMES, Worker
from prune.checkpoint.directory import CONFIG, read_json
from prune.files import write_json
from prune.gguf.real_models import SMOLLM2, cache_directory

BEGIN, END = "<!-- runtime speed: begin -->", "<!-- runtime speed: end -->"
DROP = (12, 13, 14, 15, 16, 25)
ROUNDS, SHORT, LONG, TOKENS = 5, 16, 384, 48


def processor_seconds(worker: Worker) -> float:
    """User and system time of a worker and what it started, so far."""
    pid, ticks = worker._process.pid, os.sysconf("SC_CLK_TCK")
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / ticks


def seconds(worker: Worker, prompt: list[int], tokens: int) -> float:
    """Processor seconds of one answer."""
    before = processor_seconds(worker)
    worker.generate([prompt], tokens)
    return processor_seconds(worker) - before


def measure(runtime: str, original: Path, cut: Path, rounds: int) -> dict[str, Any]:
    """Both models in one runtime, taking turns."""
    vocabulary = int(read_json(original / CONFIG)["vocab_size"])
    ids = [token for row in prompts_for(vocabulary).tolist() for token in row] * 2
    options = {"max_model_len": 512, "dtype": "float32", "vocabulary": vocabulary, "threads": 1}
    paths = [gguf_of(path) if runtime == "llama.cpp" else path for path in (original, cut)]
    with Worker(runtime, paths[0], options) as deep, Worker(runtime, paths[1], options) as shallow:
        prefill, decode = [], []
        for turn in range(rounds + 1):  # the first warms up
            rows = []
            for worker in (deep, shallow):
                # Another prompt each turn: some runtimes keep what they computed for the last one.
                start = ids[turn : turn + LONG]
                first = seconds(worker, ids[turn : turn + SHORT], 1)
                rows.append(
                    (seconds(worker, start, 1), seconds(worker, ids[turn + 1 : turn + 1 + SHORT], TOKENS) - first)
                )
            if turn:
                prefill.append(rows[0][0] / rows[1][0])
                decode.append(rows[0][1] / rows[1][1])
    return {"runtime": runtime, "version": deep.version, "prefill": prefill, "decode": decode}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a row a runtime, median and range of the ratios."""
    lines = [f"| runtime | turns | prefill, {LONG} tokens | decode, {TOKENS} tokens |", "| --- | --- | --- | --- |"]
    for row in rows:
        cells = [f"{statistics.median(v):.2f} x ({min(v):.2f}-{max(v):.2f})" for v in (row["prefill"], row["decode"])]
        lines.append(f"| {row['runtime']} {row['version']} | {len(row['prefill'])} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


def shares(original: Path, cut: Path) -> str:
    """One sentence: what the cut could give at most."""
    deep, shallow = (read_json(path / CONFIG) for path in (original, cut))
    width, inner, heads = deep["hidden_size"], deep["intermediate_size"], deep["num_attention_heads"]
    narrow = width * deep["num_key_value_heads"] // heads
    layer = 2 * width * width + 2 * width * narrow + 3 * width * inner
    head = width * deep["vocab_size"]
    counts = [config["num_hidden_layers"] for config in (deep, shallow)]
    read = [n * layer + head for n in counts]
    return (
        f"{counts[0]} layers against {counts[1]}: a share of {counts[0] / counts[1]:.2f} of the layers, "
        f"{read[0] / read[1]:.2f} of the parameters that a token reads, the head included."
    )


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True, help="as of runtime_matrix.py")
    parser.add_argument("--table", action="store_true", help="write the table of the results there into the README")
    parser.add_argument("--runtimes", help="runtimes to run, with commas", default=",".join(RUNTIMES))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    given = parser.parse_args()
    if not (cache_directory() / SMOLLM2.name / CONFIG).is_file():
        parser.error(f"{SMOLLM2.name} is not here: run scripts/real_models.py")
    MODELS[SMOLLM2.name] = (cache_directory() / SMOLLM2.name, ((), DROP))
    original, cut = (prepare(Case(SMOLLM2.name, drop, "both"), given.output) for drop in ((), DROP))
    for runtime in [] if given.table else given.runtimes.split(","):
        result = given.output / "speed" / f"{runtime}.json"
        if installed(runtime) and not result.is_file():
            write_json(result, measure(runtime, original, cut, given.rounds))
            print(table([read_json(result)]), flush=True)
    rows = [read_json(path) for path in sorted((given.output / "speed").glob("*.json"))]
    text = shares(original, cut) + "\n\n" + table(rows)
    print(text)
    if given.table:
        whole = README.read_text(encoding="utf8")
        before, rest = whole.split(BEGIN, 1)
        README.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.split(END, 1)[1]}", encoding="utf8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
