"""How much of the original comes back, by recipe of healing: the table of `scripts/README.md`.

On the demo model, at each depth: the pruned model, the same with compensation, and five ways to train on one budget of
tokens: the files' documents with the next-token loss, with distillation or with both (next token at half weight), and
the original's own answers to the files' prompts with either. General and math are the demo recipe's suites; retention
is the share of the original's score above chance, with the paired interval of `evals.gate`. Every run is a process of
its own, so that its peak memory is its own, and is kept in the results file: a second call does only what is missing.

    python scripts/recovery_table.py -o recovery.json [--depths 12,10] [--seeds 0] [--max_steps 60] [--limit N]
    python scripts/recovery_table.py -o recovery.json --show
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import multiprocessing
import os
import resource
import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

import prune
from evals.gate import judge
from evals.harness import Results, run_tasks
from prune.data.domains import Domain, load_domain
from prune.embedded import MODEL, RECIPE
from prune.files import sha256_file, write_json
from prune.healing.heal import heal
from prune.healing.settings import HealSettings
from prune.model.loading import load_model, load_tokenizer
from prune.planning.plan import Plan
from prune.planning.planner import sweep
from prune.runs.inputs import resolve_suites
from prune.runs.recipe import load_recipe
from prune.surgery.replacements import compensated_plan

OBJECTIVES = {
    "next token": {"distill_weight": 0.0, "next_token_weight": 1.0},
    "distillation": {"distill_weight": 1.0, "next_token_weight": 0.0},
    "both losses": {"distill_weight": 1.0, "next_token_weight": 0.5},  # the default
}
METHODS = {
    "pruned": None,
    "+ compensation": None,
    "LoRA, next token": ("files", "next token"),
    "LoRA, distillation": ("files", "distillation"),
    "LoRA, both losses": ("files", "both losses"),
    "LoRA, own answers, next token": ("answers", "next token"),
    "LoRA, own answers, distillation": ("answers", "distillation"),
}


class Bench:
    """What every run needs, loaded once; runs inherit it by fork."""

    def __init__(self, folder: Path, limit: int | None) -> None:
        self.folder, self.limit = folder, limit
        self.recipe = load_recipe(RECIPE)
        self.tokenizer = load_tokenizer(str(MODEL))
        self.model = load_model(str(MODEL))
        self.suites = resolve_suites(self.recipe.eval.suites, self.recipe.eval.size)
        self.original = self.evaluate(self.model)
        self.data = {"files": self._domains(self.recipe.heal.domains), "answers": self._domains(self._answers())}
        self._plans: dict[int, Plan] = {}
        self.calibration: dict[str, Domain] = {}

    def _domains(self, files: Mapping[str, str]) -> dict[str, Domain]:
        length = self.recipe.data.seq_length
        return {name: load_domain(name, path, self.tokenizer, seq_length=length) for name, path in files.items()}

    def _answers(self) -> dict[str, str]:
        """The original's answers: greedy to questions, sampled where the prompt is the beginning of a text."""
        files = {}
        for name, path in self.recipe.heal.domains.items():
            rows = Path(path).read_text(encoding="utf8").splitlines()
            parts = {
                "questions": (
                    [r for r in rows if "prompt" in json.loads(r)],
                    {"max_new_tokens": 24, "num_prompts": 2500},
                ),
                "texts": (
                    [r for r in rows if "text" in json.loads(r)],
                    {"do_sample": True, "max_new_tokens": self.recipe.data.seq_length - 16, "num_prompts": 400},
                ),
            }
            found = []
            for kind, (chosen, options) in parts.items():
                prompts, answers = (self.folder / f"{name}-{kind}-{what}.jsonl" for what in ("prompts", "answers"))
                if not chosen:
                    continue
                if not answers.is_file():
                    prompts.write_text("\n".join(chosen), encoding="utf8")
                    prune.generate("embedded", answers, data={name: str(prompts)}, batch_size=64, **options)
                found.append(answers.read_text(encoding="utf8"))
            files[name] = str(self.folder / f"{name}-answers.jsonl")
            Path(files[name]).write_text("".join(found), encoding="utf8")
        return files

    def evaluate(self, model: Any) -> Results:
        """Every task of the recipe's suites."""
        return run_tasks(
            model,
            self.tokenizer,
            [task for suite in self.suites for task in suite.tasks],
            include_path=[Path(p) for p in self.recipe.eval.include_path],
            limit=self.limit,
            batch_size=self.recipe.eval.batch_size,
            seed=self.recipe.seed,
        )

    def make_plans(self, depths: Iterable[int]) -> None:
        """The recipe's plan for each depth, from one search."""
        options, data = self.recipe.plan, self.recipe.data
        self.calibration = {
            name: load_domain(name, path, self.tokenizer, seq_length=data.seq_length,
                              calib_num_samples=data.calib_num_samples, seed=self.recipe.seed)
            for name, path in data.domains.items()
        }  # fmt: skip
        wanted = sorted(depths, reverse=True)
        plans = sweep(source="embedded", model=self.model, domains=self.calibration, criterion=options.criterion,
                      strategy=options.strategy, depths=wanted, protect=options.protect,
                      domain_weights=options.domain_weights or None, seed=self.recipe.seed)  # fmt: skip
        self._plans = dict(zip(wanted, plans, strict=True))

    def run(self, depth: int, method: str, seed: int, changes: Mapping[str, Any]) -> dict[str, Any]:
        """One line of the table."""
        plan = self._plans[depth]
        checkpoint = self.folder / f"cut-{depth}{'-compensated' if 'compensation' in method else ''}"
        found: dict[str, Any] = {"depth": depth, "method": method, "seed": seed, "drop": plan.drop}
        if not checkpoint.is_dir():
            began = time.process_time()
            self._cut(plan, checkpoint, compensated="compensation" in method)
            if "compensation" in method:
                found["seconds"] = time.process_time() - began
        model = load_model(str(checkpoint))
        if (recipe := METHODS[method]) is not None:
            source, objective = recipe
            options = {k: getattr(self.recipe.heal, k) for k in HealSettings.model_fields}
            options |= {**OBJECTIVES[objective], "seed": seed, "early_stopping_patience": None, **changes}
            settings = HealSettings(**options)
            before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
            result = heal(
                model,
                self.model if settings.needs_teacher else None,
                self.data[source],
                settings,
                kept_layers=plan.keep,
                domain_weights=self.recipe.heal.domain_weights or None,
                pad_token_id=self.tokenizer.pad_token_id,
                output_dir=self.folder / "training" / f"{depth}-{method}-{seed}",
            )
            model = result.model.to(torch.bfloat16).float()  # as the checkpoint on disk stores it
            found |= {
                "tokens": result.tokens_seen,
                "best_step": result.best_step,
                "seconds": time.process_time() - began,
                "memory_mb": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024,
                "held_out": [result.held_out_before, result.held_out_after],
                "settings": settings.model_dump(),
            }
        evidence = judge(self.original, self.evaluate(model), self.suites, seed=self.recipe.seed)
        found["suites"] = {s.name: s.model_dump(mode="json", exclude={"tasks"}) for s in evidence.suites}
        return found

    def _cut(self, plan: Plan, target: Path, *, compensated: bool) -> None:
        path = self.folder / f"{target.name}.json"
        if compensated:
            weights = self.recipe.plan.domain_weights or None
            pad = self.tokenizer.pad_token_id
            compensated_plan(plan, MODEL, self.model, self.calibration, path, weights=weights, pad_token_id=pad)
        else:
            plan.save(path)
        prune.cut("embedded", target, plan=path, verify=False)


def in_a_process(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The value of `work`, run in a fork of this process."""
    # transformers loads weights on threads, and torch's thread pool does not survive a fork.
    os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def child() -> None:
        theirs.send(work())

    process = context.Process(target=child)
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        raise SystemExit("a run failed; its traceback stands above") from None
    finally:
        process.join()


def table(rows: list[dict[str, Any]]) -> str:
    """The results as Markdown: means over seeds and the range of math over them; intervals are the first seed's."""
    header = [
        "layers",
        "recipe",
        "general",
        "retention",
        "math",
        "over the seeds",
        "retention",
        "bits per byte",
        "tokens",
    ]
    header += ["CPU seconds", "peak memory"]
    lines = [_line(header), _line(["---"] * len(header))]
    for depth in sorted({r["depth"] for r in rows}, reverse=True):
        for method in METHODS:
            group = sorted((r for r in rows if (r["depth"], r["method"]) == (depth, method)), key=lambda r: r["seed"])
            if not group:
                continue
            general, math, text = (
                [r["suites"][s]["candidate"] for r in group] for s in ("general", "math", "language")
            )
            lines.append(
                _line([
                    str(depth), method,
                    f"{statistics.mean(general):.3f}", _retention(group[0]["suites"]["general"]),
                    f"{statistics.mean(math):.3f}", f"{min(math):.3f}-{max(math):.3f}" if len(math) > 1 else "-",
                    _retention(group[0]["suites"]["math"]),
                    f"{statistics.mean(text):.3f}",
                    *(_mean(group, *column) for column in (
                        ("tokens", "{:,.0f}"), ("seconds", "{:.0f}"), ("memory_mb", "+{:.0f} MB"),
                    )),
                ])
            )  # fmt: skip
    return "\n".join(lines)


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _retention(suite: dict[str, Any]) -> str:
    """A suite's retention with its interval; what the gate could not define is said so."""
    ends = (suite["retention"], suite["retention_lo"], suite["retention_hi"])
    return "undefined" if None in ends else "{:.2f} [{:.2f}, {:.2f}]".format(*ends)


def _mean(group: list[dict[str, Any]], key: str, form: str) -> str:
    values = [r[key] for r in group if key in r]
    return form.format(statistics.mean(values)) if values else "-"


def measure(options: argparse.Namespace, known: dict[str, Any]) -> list[dict[str, Any]]:
    """All rows, those that the file lacks measured now; each is written as soon as it is there."""
    changes = {k: v for k in ("max_steps", "learning_rate") if (v := getattr(options, k)) is not None}
    identity = {
        "model": sha256_file(MODEL / "model.safetensors"),
        "recipe": yaml.safe_load(RECIPE.read_text()),
        "changes": changes,
        "limit": options.limit,
    }
    if known and known["identity"] != identity:
        raise SystemExit(f"{options.output} is of another model or other settings; give -o a new file")
    rows = known.get("rows", [])
    done = {(row["depth"], row["method"], row["seed"]) for row in rows}
    folder = options.output.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    bench = Bench(folder, options.limit)
    depths, seeds = ([int(n) for n in text.split(",")] for text in (options.depths, options.seeds))
    bench.make_plans(depths)
    methods = options.methods.split(";") if options.methods else list(METHODS)
    for seed, depth, method in itertools.product(seeds, depths, methods):
        same_for_all_seeds = METHODS[method] is None
        if (depth, method, seed) in done or (same_for_all_seeds and seed != seeds[0]):
            continue
        row = in_a_process(functools.partial(bench.run, depth, method, seed, changes))
        rows.append(row)
        write_json(options.output, {"identity": identity, "rows": rows})
        shown = {k: row.get(k) for k in ("depth", "method", "seed", "seconds", "held_out")}
        print(json.dumps(shown), flush=True)
    return rows


def main() -> None:
    """Measure what is missing, unless `--show`, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--depths", default="12,10")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--methods", default=None, help="with semicolons; all if absent")
    parser.add_argument("--max_steps", type=int, default=None)
    parser.add_argument("--learning_rate", type=float, default=None)
    parser.add_argument("--limit", type=int, default=None)
    parser.add_argument("--show", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=FutureWarning)
    known = json.loads(options.output.read_text(encoding="utf8")) if options.output.is_file() else {}
    print(table(known.get("rows", []) if options.show else measure(options, known)))


if __name__ == "__main__":
    main()
