"""How close the searches come to the true optimum, and how the default plan compares with the published recipes.

Search: what greedy removal of a quarter takes when each round is a race over documents, against scoring every candidate
on all documents: layer evaluations of the naive count, CPU seconds, and ΔNLL on all documents.
Beyond: the same for the searches beyond greedy.
Oracle: on calibration documents, every pair, triple and quadruple of layers is scored; the regret of a strategy is its
ΔNLL minus the optimum's. The evolutionary search gets a budget below the size of the space, so that it does search.
Quarter: a quarter of the layers goes, chosen on calibration documents; NLL per domain on held-out documents, against
the best that any search found, and the default against each baseline with paired intervals. Compensation: without
training, where the searches' quarter and the depths before it lie. The tables stand in scripts/README.md.

    python scripts/bench_planning.py [--tables search beyond oracle quarter compensation] [--documents N] [--seed 0]
        [--races 5] [--races_in FOLDER] [--prediction_share 1] [--cache scores.sqlite]
        [--also NAME MODEL_DIR STORIES.txt ...]
        [--short NAME MODEL_DIR TOKENS DOMAIN=FILE,DOMAIN=FILE ...]
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))
from planning_models import Bench, embedded, other, short

from prune.planning.evaluator import Evaluator
from prune.planning.plan import Plan
from prune.planning.planner import make_plan, with_scores
from prune.planning.tuning import Tuning
from prune.surgery.compensation import compensate
from prune.surgery.folding import applied

ORACLE = (
    ("dnll", "greedy"),
    ("dnll", "greedy_full"),
    ("dnll", "greedy_swap"),
    ("dnll", "beam"),
    ("dnll", "evolutionary"),
    ("dnll", "one_shot"),
    ("dnll", "contiguous"),
    ("block_influence", "one_shot"),
    ("angular", "contiguous"),
    ("last_n", "one_shot"),
)
QUARTER = (
    *ORACLE[:6],
    ("dnll", "blocks"),
    ("kl", "greedy"),
    ("block_influence", "one_shot"),
    ("angular", "contiguous"),
    ("relative_contribution", "one_shot"),
    ("taylor", "one_shot"),
    ("magnitude", "one_shot"),
    ("last_n", "one_shot"),
)
TABLES = ("search", "beyond", "oracle", "quarter", "compensation")
DEFAULT = ("dnll", "greedy")
BASELINES = (("block_influence", "one_shot"), ("angular", "contiguous"), ("last_n", "one_shot"))
RANDOM_SEEDS = range(5)
COUNTS = (2, 3, 4)
COMPENSATED = (8, 4, 3)  # an eighth of the layers removed, a quarter, a third
STORED = torch.bfloat16  # new weights are rounded as a checkpoint would hold them


def search_rows(bench: Bench) -> Iterator[list[str]]:
    """greedy_full, which may have a cache, then the default search with several seeds, each from nothing.

    The search reads what `prune plan` would: a sample of the predictions where the head outweighs the layers. Every
    answer is judged on all of them.
    """
    full = math.nan
    for strategy, seed in (("greedy_full", 0), *(("greedy", bench.seed + more) for more in range(bench.races))):
        if strategy == "greedy":
            plan, ratio, cpu = _raced(bench, seed)
        else:
            evaluator = Evaluator(bench.model, bench.seen_domains, batch_size=32, cache=bench.cache)
            begin = time.process_time()
            plan = make_plan(source=bench.name, evaluator=evaluator, drop_fraction=0.25, strategy=strategy)
            again = plan.evaluations["subsets_from_cache"] > 0
            ratio, cpu = (
                ("-", "-") if again else (f"{plan.evaluations['ratio']:.3f}", f"{time.process_time() - begin:.0f}")
            )
            full = bench.seen.score(plan.keep).total
        used, cost = plan.evaluations, bench.seen.score(plan.keep).total
        documents = ", ".join(map(str, used["documents"]))
        stated = f"{sum(used['regret']):.3f}" if "regret" in used else "-"
        layers, gap = ", ".join(map(str, plan.order)), f"{100 * (cost / full - 1):+.1f} %"
        label = f"{strategy}, seed {seed}"
        yield [bench.name, label, layers, ratio, documents, cpu, f"{cost:.4f}", gap, stated]


def beyond_rows(bench: Bench) -> Iterator[list[str]]:
    """The other searches, with candidates dropped on part of the documents and with all scored on all."""
    for strategy in ("beam", "greedy_swap", "evolutionary"):
        for whole in (True, False):
            evaluator = Evaluator(bench.model, bench.seen_domains, batch_size=32, seed=bench.seed)
            evaluator.sweeps = whole  # as where every call is dear: no search is handed costs by document
            begin = time.process_time()
            plan = make_plan(
                source=bench.name, evaluator=evaluator, drop_fraction=0.25, strategy=strategy, seed=bench.seed,
                tuning=Tuning(max_subsets=bench.limit, seed=bench.seed),
            )  # fmt: skip
            seconds, used = time.process_time() - begin, plan.evaluations
            label = f"{strategy}, {'all on all documents' if whole else 'contests'}"
            cells = [f"{used['ratio']:.3f}", f"{seconds:.0f}", f"{bench.seen.score(plan.keep).total:.4f}"]
            yield [bench.name, label, _layers(plan), *cells]


def _raced(bench: Bench, seed: int) -> tuple[Plan, str, str]:
    """The default search from nothing: its plan, layer evaluations of the naive count, and CPU seconds.

    With `--races_in` a search that was killed goes on; what it then repeats is counted again.
    """
    place = bench.races_in and f"{bench.races_in}/{bench.name}-{seed}"
    store, tally = (Path(f"{place}.sqlite"), Path(f"{place}.json")) if place else (None, None)
    spent = json.loads(tally.read_text()) if tally and tally.is_file() else {"layers": 0.0, "seconds": 0.0}
    evaluator = Evaluator(
        bench.model, bench.seen_domains, batch_size=32, seed=seed, cache=store, prediction_share=bench.share
    )
    begin = time.process_time()
    try:
        plan = make_plan(source=bench.name, evaluator=evaluator, drop_fraction=0.25, seed=seed)
    finally:
        spent["layers"] += evaluator.work.layers
        spent["seconds"] += time.process_time() - begin
        if tally:
            tally.write_text(json.dumps(spent))
    return plan, f"{spent['layers'] / plan.evaluations['naive_layer_evaluations']:.3f}", f"{spent['seconds']:.0f}"


def oracle_rows(bench: Bench) -> Iterator[list[str]]:
    """Regret of every strategy for each number of removed layers."""
    depth = bench.analysis.num_layers
    for count in COUNTS:
        best = bench.plan("dnll", "exhaustive", depth - count)
        optimum = best.scores["dnll"]["total"]["value"]
        space = math.comb(depth, count)
        cells = [bench.name, str(count), "exhaustive", str(space), _layers(best), f"{optimum:.4f}", "0"]
        yield cells
        for criterion, strategy in ORACLE:
            plan = bench.plan(
                criterion, strategy, depth - count, tuning=Tuning(max_subsets=space // 3, seed=bench.seed)
            )
            cost = with_scores(plan, bench.seen).scores["dnll"]["total"]["value"]
            tried = _subsets_tried(bench, criterion, strategy, depth - count, space // 3)
            yield [
                bench.name, str(count), f"{strategy} ({criterion})", tried, _layers(plan), f"{cost:.4f}",
                f"{cost - optimum:.4f}",
            ]  # fmt: skip


def _subsets_tried(bench: Bench, criterion: str, strategy: str, depth: int, limit: int) -> str:
    """Distinct subsets that a search asks for, counted on a fresh evaluator with the shared cache."""
    if criterion != "dnll":
        return "0"
    fresh = Evaluator(bench.model, bench.seen_domains, batch_size=32, cache=bench.seen._cache)
    make_plan(
        source=bench.name, evaluator=fresh, strategy=strategy, num_layers=depth,
        tuning=Tuning(max_subsets=limit, seed=bench.seed), seed=bench.seed,
    )  # fmt: skip
    return str(len(fresh.work.asked) - 1)  # the full model is none


def quarter_rows(bench: Bench) -> Iterator[list[str]]:
    """Held-out NLL per domain with a quarter of the layers removed; best first, random as the mean of its draws."""
    depth = bench.analysis.num_layers - bench.analysis.num_layers // 4
    clean = bench.held_out.clean_nll()
    names = list(clean)
    yield ["original", "-", *(f"{clean[name]:.3f}" for name in names), f"{np.mean(list(clean.values())):.4f}", "-"]
    found: list[tuple[str, str, list[float]]] = []
    for criterion, strategy in QUARTER:
        plan = bench.plan(criterion, strategy, depth, tuning=Tuning(max_subsets=bench.limit, seed=bench.seed))
        mark = " **default**" if (criterion, strategy) == DEFAULT else ""
        found.append((f"{strategy} ({criterion}){mark}", _layers(plan), _held_out(bench, plan, clean)))
    draws = [_held_out(bench, bench.plan("random", "one_shot", depth, seed=seed), clean) for seed in RANDOM_SEEDS]
    found.append(("random (mean of 5)", "-", np.mean(draws, axis=0).tolist()))
    best = min(np.mean(values) for _, _, values in found)
    for label, layers, values in sorted(found, key=lambda row: np.mean(row[2])):
        mean = float(np.mean(values))
        yield [label, layers, *(f"{value:.3f}" for value in values), f"{mean:.4f}", f"{100 * (mean / best - 1):+.1f} %"]


def baseline_rows(bench: Bench) -> Iterator[list[str]]:
    """The default plan's held-out NLL minus each baseline's, with paired 95 % intervals over documents."""
    depth = bench.analysis.num_layers - bench.analysis.num_layers // 4
    default = bench.held_out.score(bench.plan(*DEFAULT, depth).keep)
    for criterion, strategy in BASELINES:
        other = bench.held_out.score(bench.plan(criterion, strategy, depth).keep)
        sums = {name: default.sums[name] - other.sums[name] for name in default.sums}
        difference = replace(default, sums=sums)
        cells = [_with_interval(difference.by_domain[name], *difference.interval(name)) for name in sums]
        yield [f"{strategy} ({criterion})", *cells, _with_interval(difference.total, *difference.interval())]


def _with_interval(value: float, low: float, high: float) -> str:
    return f"{value:+.3f} [{low:+.3f}, {high:+.3f}]"


def compensation_rows(bench: Bench) -> Iterator[list[str]]:
    """Held-out NLL of the default plan at several depths: as it is, with one number a gap, with a map a gap."""
    for share in COMPENSATED:
        depth = bench.analysis.num_layers - bench.analysis.num_layers // share
        plan = bench.plan(*DEFAULT, depth)
        for method in ("none", "scale", "linear"):
            tensors, kept = {}, "-"
            if method != "none":
                done = compensate(bench.model, plan.keep, bench.seen_domains, method=method, stored=lambda _: STORED)
                tensors, kept = done.tensors, f"{sum(gap.kept for gap in done.gaps)} of {len(done.gaps)}"
            with applied(bench.model, "", tensors):
                now = Evaluator(bench.model, bench.held_out_domains, batch_size=32)
                values = [now.clean_nll()[name] + now.score(plan.keep).by_domain[name] for name in now.domains]
            cells = [f"{value:.3f}" for value in values]
            yield [str(depth), _layers(plan), method, kept, *cells, f"{np.mean(values):.4f}"]


def _held_out(bench: Bench, plan: Plan, clean: Mapping[str, float]) -> list[float]:
    score = bench.held_out.score(plan.keep)
    return [clean[name] + score.by_domain[name] for name in clean]


def _layers(plan: Plan) -> str:
    return ", ".join(map(str, plan.drop))


def _print(columns: list[str], rows: Iterator[list[str]]) -> None:
    print("| " + " | ".join(columns) + " |")
    print("| " + " | ".join("---" for _ in columns) + " |")
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)
    print()


def main() -> None:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--documents", type=int, default=96, help="calibration documents of each domain, at most")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--max_subsets", type=int, default=200, help="of the evolutionary search for a quarter")
    parser.add_argument("--cache", type=Path, default=None, help="keeps every score for the next run")
    parser.add_argument("--work", default=".", help="folder for the held-out documents")
    parser.add_argument("--skip_embedded", action="store_true", help="only the models of --also")
    parser.add_argument("--also", nargs=3, action="append", default=[], metavar=("NAME", "MODEL_DIR", "STORIES"))
    parser.add_argument("--races", type=int, default=5, help="seeds of the search table, from --seed on")
    parser.add_argument("--races_in", help="folder from which races that were killed go on")
    parser.add_argument("--prediction_share", type=float, default=None, help="that races read; by the model's head")
    parser.add_argument(
        "--short", nargs=4, action="append", default=[], metavar=("NAME", "MODEL_DIR", "TOKENS", "DATA")
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what a race took is noted before it ends
    benches = [
        *([] if options.skip_embedded else [embedded(options)]),
        *(other(*arguments, options) for arguments in options.also),
        *(short(*arguments, options) for arguments in options.short),
    ]
    for bench in benches:
        if "search" in options.tables:
            columns = ["model", "search", "removed in order", "of naive", "documents a round", "CPU s", "ΔNLL"]
            _print([*columns, "over greedy_full", "regret stated"], search_rows(bench))
        if "beyond" in options.tables:
            _print(["model", "search", "layers", "of naive", "CPU s", "ΔNLL"], beyond_rows(bench))
        if "oracle" in options.tables:
            columns = ["model", "removed", "strategy (criterion)", "subsets scored", "layers", "ΔNLL", "regret"]
            _print(columns, oracle_rows(bench))
        names = list(bench.held_out.domains)
        if "quarter" in options.tables:
            _print(["plan", "layers", *names, "mean NLL", "over the best"], quarter_rows(bench))
            _print(["default minus", *names, "mean"], baseline_rows(bench))
        if "compensation" in options.tables:
            _print(
                ["layers left", "removed", "compensation", "gaps kept", *names, "mean NLL"], compensation_rows(bench)
            )


if __name__ == "__main__":
    main()
