"""What healing from kept predictions costs against healing with the original: the table of `scripts/README.md`.

On the demo model without layers 5, 10, 11 and 13: the first documents of the demo recipe's training data are taught
with each k, and the cut model is healed from them with the recipe's settings by distillation alone, once with the
original and once from each k. Columns: bytes per counted token on disk; the mass of the kept tokens; the divergence
from the original, nats per token, of the cut model as each k sees it and of the healed one in full (on training
documents); the held-out loss, nats per token; the share of right answers in the demo's mathematics.

    python scripts/teach_table.py -o FOLDER [--documents 600] [--max_steps 60] [--limit 300] [--top_k 8,32,128,0]

Another model is named with its data, and healed with the default settings from rows of 128 tokens; its columns at the
end are the held-out losses of each domain:

    python scripts/teach_table.py -o FOLDER --model SMOLLM2_DIR --drop_layers 4,5,16,17,18,25 --data text=wikitext.txt \
        --data math=gsm8k.jsonl --documents 64 --max_steps 24 --top_k 8,32,128
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from pathlib import Path
from typing import Any

import torch

import prune
from evals.harness import run_tasks
from prune.api._inputs import load_suites
from prune.data.domains import load_domain, pad_token
from prune.embedded import HERE, MODEL, RECIPE, TASKS
from prune.healing.buckets import bucketed
from prune.healing.data import Collator
from prune.healing.heal import heal
from prune.healing.losses import token_losses
from prune.healing.objective import counted_logits
from prune.healing.settings import HealSettings
from prune.healing.targets import Targets
from prune.model.loading import load_model, load_tokenizer
from prune.runs.recipe import load_recipe

DROP = "5,10,11,13"
MEASURED = 64
"""Documents of each domain on which the divergences are compared."""


def data_of(folder: Path, files: dict[str, str], tokenizer: Any, length: int, documents: int) -> dict[str, str]:
    """The first documents of each training file, as token ids."""
    written = {}
    for name, file in files.items():
        rows = load_domain(name, file, tokenizer, seq_length=length).documents[:documents]
        lines = [json.dumps({"input_ids": list(d.input_ids), "answer_start": d.answer_start}) for d in rows]
        written[name] = str(folder / f"{name}.jsonl")
        Path(written[name]).write_text("".join(f"{line}\n" for line in lines), encoding="utf8")
    return written


@torch.no_grad()
def divergences(original: Any, cut: Any, domains: Any, pad: int, ks: list[int]) -> dict[str, float]:
    """Nats per token between the original and the cut model, in full and as each k sees it."""
    sums, tokens = dict.fromkeys(["full", *map(str, ks)], 0.0), 0
    for domain in domains.values():
        for begin in range(0, min(MEASURED, len(domain.documents)), 8):
            batch = Collator(pad, packing=False)([[d] for d in domain.documents[begin : begin + 8]])
            theirs, ours = counted_logits(original, batch), counted_logits(cut, batch)  # [N, V]
            tokens += len(ours)
            actual = torch.zeros(len(ours), dtype=torch.long)
            for name in sums:
                teacher = theirs if name == "full" else bucketed(theirs, int(name))
                losses = token_losses(ours, actual, teacher, next_token_weight=0.0, distill_weight=1.0)
                sums[name] += losses.distill.item()
    return {name: value / tokens for name, value in sums.items()}


def accuracy(model: Any, *, tokenizer: Any, limit: int) -> float:
    """Share of right answers of the first items of each task of the demo's mathematics."""
    tasks = [task for suite in load_suites("demo_math", "full") for task in suite.tasks]
    found = run_tasks(model, tokenizer, tasks, limit=limit, batch_size=64, seed=0, include_path=[TASKS])
    return sum(found.scores.values()) / len(found.scores)


def main() -> None:
    """Measure what the results file lacks, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--documents", type=int, default=600)
    parser.add_argument("--max_steps", type=int, default=60)
    parser.add_argument("--limit", type=int, default=300)
    parser.add_argument("--top_k", default="8,32,128,0")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--drop_layers", default=DROP)
    parser.add_argument("--data", action="append", default=[], help="NAME=FILE, of another model than the embedded one")
    asked = parser.parse_args()
    asked.output.mkdir(parents=True, exist_ok=True)
    ks = [int(k) for k in asked.top_k.split(",")]
    embedded = asked.model == "embedded"
    model, tokenizer = str(MODEL) if embedded else asked.model, load_tokenizer(asked.model)
    settings = settings_of(embedded, asked.max_steps)
    given = dict(entry.split("=", 1) for entry in asked.data)
    if embedded:
        given = {name: str(HERE / f"data/heal/{name}.jsonl") for name in ("stories", "arithmetic")}
    files = data_of(asked.output, given, tokenizer, settings.max_length, asked.documents)
    domains = {n: load_domain(n, p, tokenizer, seq_length=settings.max_length) for n, p in files.items()}
    cut = asked.output / "cut"
    if not cut.is_dir():
        prune.cut(asked.model, cut, drop_layers=asked.drop_layers, verify=False)
    original, pad = load_model(model), pad_token(tokenizer)
    dropped = {int(layer) for layer in asked.drop_layers.split(",")}
    kept = [layer for layer in range(original.config.num_hidden_layers) if layer not in dropped]
    score = functools.partial(accuracy, tokenizer=tokenizer, limit=asked.limit) if embedded else None
    results = asked.output / "results.json"
    found: dict[str, Any] = json.loads(results.read_text()) if results.is_file() else {}
    if "divergence" not in found:
        found["divergence"] = divergences(original, load_model(str(cut)), domains, pad, ks)
        found["cut"] = score(load_model(str(cut))) if score else None
        results.write_text(json.dumps(found))
    for name in ["original", *map(str, ks)]:
        if f"healed {name}" in found:
            continue
        targets, facts = None, {}
        if name != "original":
            place = asked.output / f"targets-{name}"
            if not place.is_dir():
                prune.teach(model, place, data=files, top_k=int(name), max_length=settings.max_length, resume=True)
            targets = Targets(place)
            targets.require(domains, settings.max_length, tokenizer)
            facts = {"bytes_per_token": targets.record["bytes_per_token"], "mass": targets.record["mass"]}
        began = time.process_time()
        healed = heal(load_model(str(cut)), None if targets else load_model(model), domains, settings,
                      kept_layers=None if targets else kept, targets=targets, pad_token_id=pad,
                      output_dir=asked.output / "training" / name)  # fmt: skip
        facts |= {"seconds": time.process_time() - began, "before": healed.held_out_before}
        facts |= {"after": healed.held_out_after, "tokens": healed.tokens_seen, "by_domain": healed.held_out_by_domain}
        facts |= {"accuracy": score(healed.model) if score else None}
        facts |= {"divergence": divergences(original, healed.model, domains, pad, [])["full"]}
        found[f"healed {name}"] = facts
        results.write_text(json.dumps(found))
    show(found, ks)


def settings_of(embedded: bool, max_steps: int) -> HealSettings:
    """Distillation alone; otherwise as the demo's recipe has it, or as the defaults are."""
    options: dict[str, Any] = {"max_length": 128, "per_device_train_batch_size": 4, "eval_max_documents": 12}
    if embedded:
        recipe = load_recipe(RECIPE)
        options = {k: getattr(recipe.heal, k) for k in HealSettings.model_fields}
    alone = {"distill_weight": 1.0, "next_token_weight": 0.0, "early_stopping_patience": None}
    return HealSettings(**{**options, **alone, "max_steps": max_steps})


def show(found: dict[str, Any], ks: list[int]) -> None:
    """The table."""
    full, first = found["divergence"]["full"], found["healed original"]
    ends = ["held-out loss", "arithmetic"] if found["cut"] is not None else list(first["by_domain"]["after"])

    def last(facts: dict[str, Any], when: str, right: float | None) -> list[str]:
        if right is not None:
            return [f"{facts[when]:.4f}", f"{right:.3f}"]
        return [f"{value:.4f}" for value in facts["by_domain"][when].values()]

    def row(*cells: str) -> None:
        print(f"| {' | '.join(cells)} |")

    row("taught by", "bytes a token", "mass kept", "divergence seen", "left after healing", "CPU s", *ends)
    row(*["---"] * (6 + len(ends)))
    row("(cut, not healed)", "-", "-", f"{full:.4f}", f"{full:.4f}", "-", *last(first, "before", found["cut"]))
    for name in ["original", *map(str, ks)]:
        facts = found[f"healed {name}"]
        seen = found["divergence"][name if name != "original" else "full"]
        row(
            {"original": "the original", "0": "all tokens"}.get(name, f"k = {name}"),
            f"{facts['bytes_per_token']:,.0f}" if "bytes_per_token" in facts else "-",
            f"{facts['mass']:.4f}" if "mass" in facts else "1",
            f"{seen:.4f}",
            f"{facts['divergence']:.4f}",
            f"{facts['seconds']:,.0f}",
            *last(facts, "after", facts["accuracy"]),
        )


if __name__ == "__main__":
    main()
