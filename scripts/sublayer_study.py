#!/usr/bin/env python3
"""Whole layers, attention, MLPs or a mixture: which cut costs least at equal decode time and at equal cache?

    python scripts/sublayer_study.py MODEL --data text=a.jsonl --data math=a2.jsonl --held_out text=b.jsonl \
        --held_out math=b2.jsonl --healing text=c.jsonl --healing math=c2.jsonl --local_data PUBLIC_DATA \
        -o runs/sublayers.json --table

Plans of every unit are made for the same budgets (modelled decode speed by the bytes read for a token, without and with
a long context; key-value cache); a further mixture is half of the attention plan with half of the MLP plan. All are
judged on documents that no plan saw, trained on as many tokens with one recipe, and judged again, tasks included.
Every figure is kept in the output as soon as it is there, so a study that was stopped goes on. `--table` writes the
table into scripts/README.md.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import prune
from evals.harness import run_tasks
from evals.suite import TaskSpec
from prune.api._inputs import load_domains
from prune.errors import PruneError
from prune.files import write_json
from prune.healing.heal import heal
from prune.healing.settings import HealSettings
from prune.model.loading import load_model, load_tokenizer
from prune.planning.evaluator import Evaluator
from prune.planning.plan import Plan
from prune.planning.sizes import kv_sizes, loaded_sizes
from prune.planning.units import UNITS, Units

README = Path(__file__).resolve().parent / "README.md"
BEGIN, END = "<!-- sublayer study: begin -->", "<!-- sublayer study: end -->"
MIXED = "half and half"
NAMES = {"attention": "attention", "mlp": "MLPs", "layer": "layers", "sublayer": "either", MIXED: MIXED}
TASKS = {"lambada_openai": ("acc", 0.0), "arc_easy": ("acc_norm", 0.25)}
"""Task -> metric, chance."""


class Study:
    """The model, its documents, and what was found so far."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self.asked = asked
        self.model = load_model(asked.model, dtype="float32", device="cpu")
        self.tokenizer = load_tokenizer(asked.model)
        self.depth = self.model.config.get_text_config().num_hidden_layers
        self.found: dict[str, Any] = json.loads(asked.output.read_text()) if asked.output.is_file() else {}
        self.held_out = load_domains(pairs(asked.held_out), self.tokenizer, asked.seq_length, asked.judged, 0)
        self.cache = kv_sizes(asked.model, Units(self.depth), self.model).of(())

    def once(self, key: str, make: Callable[[], Any]) -> Any:
        """A figure from the output, else made and put there."""
        if key not in self.found:
            self.found[key] = make()
            write_json(self.asked.output, self.found)
            print(key, json.dumps(self.found[key])[:300], flush=True)
        return self.found[key]

    def budgets(self) -> dict[str, dict[str, float]]:
        """Label -> budget."""
        asked = self.asked
        speeds = {f"{s:.2f}x less read": {"target_speedup": s} for s in asked.speedups}
        for s in asked.long_speedups:
            label = f"{s:.2f}x less read at {asked.long_context:,} tokens"
            speeds[label] = {"target_speedup": s, "decode_context": asked.long_context}
        return speeds | {
            f"{share:.0%} of the cache": {"target_kv_bytes": int(share * self.cache)} for share in asked.kv
        }

    def plan(self, unit: str, budget: dict[str, float]) -> dict[str, Any]:
        """A plan, or why there is none."""
        try:
            made = prune.plan(
                self.model, pairs(self.asked.data), tokenizer=self.tokenizer, unit=unit, strategy="greedy",
                score_cache=self.asked.output.with_suffix(".sqlite"), seq_length=self.asked.seq_length,
                calib_num_samples=self.asked.documents, seed=0, **budget,
            )  # fmt: skip
        except PruneError as error:
            return {"refused": str(error)}
        return made.model_dump()

    def mixed(self, attention: Plan, mlp: Plan) -> dict[str, Any]:
        """The first half of one order and of the other."""
        attn, ffn = ([int(x) for x in plan.order[: len(plan.order) // 2]] for plan in (attention, mlp))
        return Plan(
            source=attention.source, num_layers=self.depth, keep=list(range(self.depth)), drop=[], unit="sublayer",
            order=[*(f"attention.{x}" for x in attn), *(f"mlp.{x}" for x in ffn)], criterion="dnll", strategy="greedy",
            drop_attention=sorted(attn), drop_mlp=sorted(ffn),
        ).model_dump()  # fmt: skip

    def saved(self, plan: Plan) -> dict[str, float]:
        """How much less is read for a token, and what of the cache is left."""
        units = Units(self.depth, "sublayer")
        gone = units.of_layers(plan.drop)
        gone |= {2 * layer for layer in plan.drop_attention} | {2 * layer + 1 for layer in plan.drop_mlp}
        read = loaded_sizes(self.model, units, "read")
        kept = self.depth - len(plan.drop) - len(plan.drop_attention)
        return {"read": read.of(()) / read.of(sorted(gone)), "kv_bytes": self.cache // 2 * kept // self.depth}

    def judged(self, model: Any) -> dict[str, dict[str, Any]]:
        """Held-out loss in nats per token, with sums and tokens of every document, by domain."""
        evaluator = Evaluator(model, self.held_out)
        found = {}
        for name, each in evaluator.clean_sums().items():
            tokens = evaluator.tokens(name)
            found[name] = {"nll": float(each.sum() / tokens.sum()), "sums": each.tolist(), "tokens": tokens.tolist()}
        return found

    def tasks(self, model: Any) -> dict[str, float]:
        """Scores on the first items of some tasks."""
        specs = [TaskSpec(task=t, metric=m, chance=c, num_fewshot=0) for t, (m, c) in TASKS.items()]
        asked = self.asked
        found = run_tasks(model, self.tokenizer, specs, limit=asked.items, local_data=asked.local_data, batch_size=16)
        return dict(found.scores)

    def healed(self, plan: Plan) -> tuple[Any, dict[str, Any]]:
        """A cut, trained, and what that took."""
        asked = self.asked
        domains = load_domains(pairs(asked.healing), self.tokenizer, asked.seq_length, None, 0)
        settings = HealSettings(
            max_steps=asked.steps, per_device_train_batch_size=4, max_length=asked.seq_length, learning_rate=0.003,
            eval_max_documents=4, eval_steps=asked.steps, lora_layers="all",
        )  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            result = heal(
                prune.cut(self.model, plan=plan, copy=True), self.model, domains, settings,
                kept_layers=plan.keep, output_dir=Path(folder),
            )  # fmt: skip
        facts = {"tokens": result.tokens_seen, "best_step": result.best_step, "seconds": round(result.seconds)}
        return result.model, facts

    def row(self, key: str, plan: Plan, *, heal: bool) -> None:
        """Everything about one plan."""
        self.once(f"{key}/saved", lambda: self.saved(plan))
        cut = functools.cache(lambda: prune.cut(self.model, plan=plan, copy=True))
        self.once(f"{key}/cut", lambda: self.judged(cut()))
        if not heal:
            return
        if asked_tasks := bool(self.asked.local_data):
            self.once(f"{key}/cut tasks", lambda: self.tasks(cut()))
        names = [f"{key}/healed", f"{key}/healing", *([f"{key}/healed tasks"] if asked_tasks else [])]
        if any(name not in self.found for name in names):
            model, facts = self.healed(plan)
            self.once(names[0], lambda: self.judged(model))
            self.once(names[1], lambda: facts)
            if asked_tasks:
                self.once(names[2], lambda: self.tasks(model))


def main() -> int:
    """Make the plans, judge them, write the table."""
    asked = arguments()
    torch.set_num_threads(1)
    study = Study(asked)
    study.once("original/cut", lambda: study.judged(study.model))
    if asked.local_data:
        study.once("original/cut tasks", lambda: study.tasks(study.model))
    rows: dict[str, Plan] = {}
    for label, budget in study.budgets().items():
        for unit in UNITS:
            made = study.once(f"{label}/{unit}/plan", functools.partial(study.plan, unit, budget))
            if "refused" not in made:
                rows[f"{label}/{unit}"] = Plan(**made)
        halves = [rows.get(f"{label}/{unit}") for unit in ("attention", "mlp")]
        if halves[0] is not None and halves[1] is not None:
            made = study.once(f"{label}/{MIXED}/plan", functools.partial(study.mixed, halves[0], halves[1]))
            rows[f"{label}/{MIXED}"] = Plan(**made)
    short = [label for label, budget in study.budgets().items() if "decode_context" not in budget]
    for key, plan in rows.items():
        study.row(key, plan, heal=bool(asked.healing) and key.split("/")[0] in short)
    if asked.table:
        write_table(study, rows)
    return 0


def arguments() -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", action="append", required=True, metavar="NAME=PATH", help="to choose by")
    parser.add_argument("--held_out", action="append", required=True, metavar="NAME=PATH", help="to judge by")
    parser.add_argument("--healing", action="append", default=[], metavar="NAME=PATH", help="to train on")
    parser.add_argument("--local_data", type=Path, help="folder with the tasks' files; no tasks without it")
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON file")
    parser.add_argument("--documents", type=int, default=12, help="of each domain to choose by")
    parser.add_argument("--judged", type=int, default=16, help="of each domain to judge by")
    parser.add_argument("--items", type=int, default=40, help="of each task")
    parser.add_argument("--steps", type=int, default=8, help="of healing, four rows each")
    parser.add_argument("--seq_length", type=int, default=128)
    parser.add_argument("--speedups", type=float, nargs="*", default=[1.0857])
    parser.add_argument("--long_speedups", type=float, nargs="*", default=[1.096])
    parser.add_argument("--long_context", type=int, default=8192)
    parser.add_argument("--kv", type=float, nargs="*", default=[0.8], help="shares of the cache that stay")
    parser.add_argument("--table", action="store_true", help="into scripts/README.md")
    return parser.parse_args()


def pairs(given: list[str]) -> dict[str, str]:
    """NAME=PATH, by name."""
    return dict(item.split("=", 1) for item in given)


def write_table(study: Study, rows: dict[str, Plan]) -> None:
    """Between the markers of scripts/README.md."""
    names = list(study.held_out)
    tasks = list(study.found.get("original/cut tasks", {}))
    head = ["budget", "what goes", "read less", "cache, bytes a token", *(f"NLL {n}" for n in names)]
    head += [*(f"{n}, healed" for n in names), *(f"{t}, cut and healed" for t in tasks)]
    lines = ["| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
    first = study.found["original/cut"]
    cells = ["none", "nothing", "1.00x", f"{study.cache // 2:,}", *(f"{first[n]['nll']:.3f}" for n in names)]
    cells += ["-"] * len(names) + [f"{study.found['original/cut tasks'][t]:.2f}" for t in tasks]
    lines.append("| " + " | ".join(cells) + " |")
    for key, plan in rows.items():
        label, unit = key.split("/")
        counts = {"layers": len(plan.drop), "attentions": len(plan.drop_attention), "MLPs": len(plan.drop_mlp)}
        what = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        saved = study.found[f"{key}/saved"]
        cells = [label, f"{NAMES[unit]}: {what}", f"{saved['read']:.3f}x", f"{saved['kv_bytes']:,}"]
        for state in ("cut", "healed"):
            cells += [_nll(study.found, key, label, state, name) for name in names]
        for task in tasks:
            both = [study.found.get(f"{key}/{state} tasks", {}).get(task) for state in ("cut", "healed")]
            cells.append(", ".join("-" if value is None else f"{value:.2f}" for value in both))
        lines.append("| " + " | ".join(cells) + " |")
    text = README.read_text(encoding="utf8")
    begin, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    table = "\n".join(lines)
    README.write_text(f"{text[:begin]}\n\n{table}\n\n{text[end:]}", encoding="utf8")


def _nll(found: dict[str, Any], key: str, label: str, state: str, name: str) -> str:
    """A held-out loss, with the paired 95 % interval of its difference to whole layers' at the same budget."""
    own = found.get(f"{key}/{state}", {}).get(name)
    if own is None:
        return "-"
    other = found.get(f"{label}/layer/{state}", {}).get(name)
    if other is None or key == f"{label}/layer":
        return f"{own['nll']:.3f}"
    low, high = paired(own, other)
    return f"{own['nll']:.3f} ({low:+.2f} to {high:+.2f})"


def paired(own: dict[str, Any], other: dict[str, Any], resamples: int = 2000) -> tuple[float, float]:
    """Bootstrap interval over documents of the difference in nats per token."""
    tokens = np.array(own["tokens"])
    gap = np.array(own["sums"]) - np.array(other["sums"])
    size = len(tokens)
    counts = np.random.default_rng(0).multinomial(size, np.full(size, 1 / size), size=resamples)  # [resamples, docs]
    low, high = np.quantile((counts @ gap) / (counts @ tokens), [0.025, 0.975])
    return float(low), float(high)


if __name__ == "__main__":
    sys.exit(main())
