#!/usr/bin/env python3
"""Is decoding as much faster as `--target_speedup` predicts? Layers, attentions and MLPs gone, short context and long.

    .venv/bin/python scripts/decode_model.py -o runs/decode          # SmolLM2 in llama.cpp and mlx-lm; resumable
    .venv/bin/python scripts/decode_model.py -o runs/decode --table  # the table alone

The prediction is the planner's own: bytes of weights that a token reads, keys and values of `--decode_context` tokens
included, original over cut. Measured: processor seconds of many tokens after a prompt of that length less those of one,
one thread, float32, original and cut taking turns; the median of the ratios of neighbours.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))
from runtime_models import MODELS, Case, gguf_of, prepare
from runtime_speed import seconds

import prune
from evals.runtimes import installed
from evals.worker import Worker
from prune.checkpoint.directory import CONFIG, read_json
from prune.files import write_json
from prune.gguf.real_models import SMOLLM2, cache_directory
from prune.planning.sizes import kv_sizes, measure_sizes
from prune.planning.units import Units

RUNTIMES = ("llama.cpp", "mlx")
TOKENS = 48


@dataclass(frozen=True)
class Cut:
    """What goes; whole layers lose both parts."""

    name: str
    attention: tuple[int, ...] = ()
    mlp: tuple[int, ...] = ()

    @property
    def layers(self) -> bool:
        """Whether whole layers go, which every runtime reads."""
        return self.attention == self.mlp


SIX = (12, 13, 14, 15, 16, 25)
CUTS = (
    Cut("6 layers", SIX, SIX),
    Cut("14 attentions", attention=tuple(range(1, 29, 2))),
    Cut("6 MLPs", mlp=SIX),
)


def made(cut: Cut | None, place: Path, runtime: str) -> Path | None:
    """What a runtime loads, made once; None where it reads no such model."""
    whole = prepare(Case(SMOLLM2.name, (), "both"), place)
    if cut is None or cut.layers:
        drop = () if cut is None else cut.attention
        directory = prepare(Case(SMOLLM2.name, drop, "both"), place)
        return gguf_of(directory) if runtime == "llama.cpp" else directory
    if runtime == "llama.cpp" and cut.mlp:
        return None
    target = place / f"{cut.name.replace(' ', '-')}{'.gguf' if runtime == 'llama.cpp' else ''}"
    if not target.exists():
        source = gguf_of(whole) if runtime == "llama.cpp" else whole
        prune.cut(source, target, drop_attn=list(cut.attention), drop_mlp=list(cut.mlp), runtime=[runtime])
    return target


def predicted(cut: Cut, context: int) -> float:
    """Original time over the cut's, as the planner counts it."""
    directory = str(cache_directory() / SMOLLM2.name)
    units = Units(int(read_json(Path(directory) / CONFIG)["num_hidden_layers"]), "sublayer")
    weights, kv = measure_sizes(directory, units, "read", None), kv_sizes(directory, units, None)
    gone = [*(2 * layer for layer in cut.attention), *(2 * layer + 1 for layer in cut.mlp)]
    read = weights.of(()) + context * kv.of(())
    return read / (weights.of(gone) + context * kv.of(gone))


def measure(runtime: str, original: Path, cut: Path, context: int, rounds: int) -> dict[str, Any]:
    """Both models in one runtime, taking turns."""
    vocabulary = int(read_json(cache_directory() / SMOLLM2.name / CONFIG)["vocab_size"])
    options = {"max_model_len": context + 2 * TOKENS, "dtype": "float32", "vocabulary": vocabulary, "threads": 1}
    ratios = []
    with Worker(runtime, original, options) as deep, Worker(runtime, cut, options) as shallow:
        for turn in range(rounds):
            # Another prompt each time: some runtimes keep what they computed for the last one.
            one, many = ([(7 * at + 31 * (2 * turn + k)) % 40_000 + 99 for at in range(context)] for k in (0, 1))
            took = [seconds(worker, many, TOKENS + 1) - seconds(worker, one, 1) for worker in (deep, shallow)]
            ratios.append(took[0] / took[1])
    return {"runtime": f"{runtime} {deep.version}", "context": context, "ratios": ratios}


def table(place: Path) -> str:
    """Markdown: a row a cut and context, a column a runtime."""
    runtimes = [name for name in RUNTIMES if list(place.glob(f"{name}.*.json"))]
    lines = [
        f"| goes | context | predicted | {' | '.join(runtimes)} |",
        "| --- | --- | --- |" + " --- |" * len(runtimes),
    ]
    for cut in CUTS:
        contexts = {int(path.name.split(".")[-2]) for path in place.glob(f"*.{cut.name}.*.json")}
        for context in sorted(contexts):
            cells = []
            for name in runtimes:
                path = place / f"{name}.{cut.name}.{context}.json"
                ratios = read_json(path)["ratios"] if path.is_file() else []
                cells.append(
                    f"{statistics.median(ratios):.2f} x ({min(ratios):.2f}-{max(ratios):.2f})" if ratios else "-"
                )
            lines.append(f"| {cut.name} | {context} | {predicted(cut, context):.2f} x | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--table", action="store_true", help="of what was measured")
    parser.add_argument("--runtimes", help="with commas", default=",".join(RUNTIMES))
    parser.add_argument("--contexts", help="tokens before the decoding, with commas", default="16,1024")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    if not (cache_directory() / SMOLLM2.name / CONFIG).is_file():
        parser.error(f"{SMOLLM2.name} is not here: run scripts/real_models.py")
    MODELS[SMOLLM2.name] = (cache_directory() / SMOLLM2.name, ((), SIX))
    for runtime in () if given.table else given.runtimes.split(","):
        for cut in CUTS if installed(runtime) else ():
            paths = [made(each, given.output, runtime) for each in (None, cut)]
            for context in map(int, given.contexts.split(",") if paths[1] else ()):
                result = given.output / f"{runtime}.{cut.name}.{context}.json"
                if not result.is_file():
                    write_json(result, measure(runtime, *paths, context, given.rounds))  # type: ignore[arg-type]
                    print(result.name, read_json(result)["ratios"], flush=True)
    print(table(given.output))
    return 0


if __name__ == "__main__":
    sys.exit(main())
