#!/usr/bin/env python3
"""Whole layers, attention, MLPs or a mixture: which cut costs least at equal decode time and at equal cache?

    .venv/bin/python scripts/sublayer_study.py MODEL --data text=a.txt --data math=a.jsonl \
        --held_out text=b.txt --held_out math=b.jsonl -o runs/sublayers.json --table

Plans of every unit are made for the same budgets (modelled decode speed, by the bytes read for a token, with and
without a long context; key-value cache), and judged on documents that no plan saw. Scores are kept beside the output,
so a study that was stopped goes on. `--table` writes the table into scripts/README.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import prune
from prune.api._inputs import load_domains
from prune.errors import PruneError
from prune.model.loading import load_model, load_tokenizer
from prune.planning.evaluator import Evaluator
from prune.planning.plan import Plan
from prune.planning.sizes import kv_sizes, loaded_sizes
from prune.planning.units import UNITS, Units

README = Path(__file__).resolve().parent / "README.md"
BEGIN, END = "<!-- sublayer study: begin -->", "<!-- sublayer study: end -->"
LONG = 4096


def main() -> int:
    """Make the plans, judge them, write the table."""
    asked = arguments()
    model, tokenizer = load_model(asked.model, dtype="float32", device="cpu"), load_tokenizer(asked.model)
    depth = model.config.get_text_config().num_hidden_layers
    sizes = {"seq_length": asked.seq_length, "calib_num_samples": asked.documents, "seed": 0}
    held_out = load_domains(pairs(asked.held_out), tokenizer, asked.seq_length, 2 * asked.documents, 0)
    judge = Evaluator(model, held_out, unit="sublayer", cache=asked.output.with_suffix(".held_out.sqlite"))
    clean = judge.clean_nll()
    budgets = {
        **{f"decode {s:g}x": {"target_speedup": s} for s in asked.speedups},
        **{f"decode {s:g}x at {LONG:,} tokens": {"target_speedup": s, "decode_context": LONG} for s in asked.speedups},
    }
    cache = kv_sizes(asked.model, Units(depth), model).of(())  # float32, as the model is loaded
    full = cache // 2  # as served, in half precision
    budgets |= {f"cache {share:.0%}": {"target_kv_bytes": int(share * cache)} for share in asked.cache}
    rows: list[dict[str, Any]] = [{"budget": "none", "unit": "original", "nll": clean, "kv_bytes": full}]
    for label, budget in budgets.items():
        for unit in UNITS:
            try:
                plan = prune.plan(
                    model, pairs(asked.data), tokenizer=tokenizer, unit=unit, strategy=asked.strategy,
                    score_cache=asked.output.with_suffix(".sqlite"), **budget, **sizes,
                )  # fmt: skip
            except PruneError as error:
                print(f"{label}, {unit}: {error}", flush=True)
                continue
            rows.append({"budget": label, "unit": unit, **judged(plan, judge, clean, full, depth, model)})
            print(rows[-1], flush=True)
            asked.output.write_text(json.dumps(rows, indent=1) + "\n")
    if asked.table:
        write_table(rows, asked)
    return 0


def arguments() -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", action="append", required=True, metavar="NAME=PATH", help="to choose by")
    parser.add_argument("--held_out", action="append", required=True, metavar="NAME=PATH", help="to judge by")
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON file")
    parser.add_argument("--documents", type=int, default=8, help="of each domain to choose by; twice as many judge")
    parser.add_argument("--seq_length", type=int, default=128)
    parser.add_argument("--strategy", default="one_shot")
    parser.add_argument("--speedups", type=float, nargs="*", default=[1.09, 1.2])
    parser.add_argument("--cache", type=float, nargs="*", default=[0.8], help="shares of the cache that stay")
    parser.add_argument("--table", action="store_true", help="into scripts/README.md")
    return parser.parse_args()


def pairs(given: list[str]) -> dict[str, str]:
    """NAME=PATH, by name."""
    return dict(item.split("=", 1) for item in given)


def judged(plan: Plan, judge: Evaluator, clean: dict[str, float], full: int, depth: int, model: Any) -> dict[str, Any]:
    """What a plan costs on the held-out documents, and what it saves."""
    gone = Units(depth, "sublayer").of_layers(plan.drop)
    gone |= {2 * layer for layer in plan.drop_attention} | {2 * layer + 1 for layer in plan.drop_mlp}
    score = judge.score([unit for unit in range(2 * depth) if unit not in gone])
    read = loaded_sizes(model, Units(depth, "sublayer"), "read")
    attentions = len(plan.drop) + len(plan.drop_attention)
    return {
        "layers": len(plan.drop), "attention": len(plan.drop_attention), "mlp": len(plan.drop_mlp),
        "speedup": read.of(()) / read.of(sorted(gone)),
        "kv_bytes": full * (depth - attentions) // depth,
        "nll": {name: clean[name] + value for name, value in score.by_domain.items()},
        "interval": {name: score.interval(name) for name in score.by_domain},
        "plan": plan.order,
    }  # fmt: skip


def write_table(rows: list[dict[str, Any]], asked: argparse.Namespace) -> None:
    """Between the markers of scripts/README.md."""
    domains = list(rows[0]["nll"])
    head = ["budget", "what goes", "read less", "cache, bytes a token", *(f"NLL {name}" for name in domains)]
    lines = ["| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
    clean = rows[0]["nll"]
    for row in rows:
        if row["unit"] == "original":
            what, faster = "nothing", "1.00x"
        else:
            parts = {"layers": row["layers"], "attentions": row["attention"], "MLPs": row["mlp"]}
            what = ", ".join(f"{count} {name}" for name, count in parts.items() if count)
            what, faster = f"{row['unit']}: {what}", f"{row['speedup']:.2f}x"
        cells = [row["budget"], what, faster, f"{row['kv_bytes']:,}"]
        for name in domains:
            low, high = row.get("interval", {}).get(name, (0.0, 0.0))
            change = "" if row["unit"] == "original" else f" (+{low:.2f} to +{high:.2f})"
            cells.append(f"{row['nll'][name]:.2f}{change}" if row["unit"] != "original" else f"{clean[name]:.2f}")
        lines.append("| " + " | ".join(cells) + " |")
    text = README.read_text(encoding="utf8")
    begin, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    table = "\n".join(lines)
    README.write_text(f"{text[:begin]}\n\n{table}\n\n{text[end:]}", encoding="utf8")


if __name__ == "__main__":
    sys.exit(main())
