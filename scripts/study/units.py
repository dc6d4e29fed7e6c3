"""The study's units: each a function of the bench and its parameters that returns what goes into its JSON file.

A unit may read what earlier ones left (`Bench.result`, plans, checkpoints) and nothing else. `UNITS` is in order of
importance, so that a study stopped early has what matters most.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

import prune
from evals.gate import judge
from evals.harness import run_tasks
from evals.suite import Suite, TaskSpec
from prune.analysis import analyze
from prune.analysis.registry import ON_PROMPTS
from prune.analysis.result import Analysis
from prune.data.domains import Domain, load_domain
from prune.planning.context import Context
from prune.planning.evaluator import Evaluator
from prune.planning.planner import make_plan, with_scores
from prune.planning.registry import get_criterion
from prune.planning.tuning import Tuning
from study.bench import BATCH, LENGTHS, Bench
from study.documents import prepare, write_levels
from study.healing import HEALINGS, healing, held_out_nll, phased, trained_original

SMALL, GEMMA = "SmolLM2-135M-Instruct", "gemma-3-270m"
LAYERS = {SMALL: 30, GEMMA: 18}
DEPTHS = {SMALL: (27, 24, 21), GEMMA: (16, 15, 13)}
MEASURED = {SMALL: ("text", "math", "code", "ja"), GEMMA: ("text", "math", "ja")}
"""Domains of the analysis."""
PLANNING = ("text", "math")
"""Domains that layers are chosen on, of equal weight."""
SEARCHED = {SMALL: 8, GEMMA: 6}
"""Documents a domain behind a greedy search."""
CANDIDATES = {SMALL: 14, GEMMA: 12}
"""The search chooses among so many layers: those whose removal alone costs least."""
JUDGED = 12
"""Held-out documents of each domain that plans are judged on."""
SEEDS = (0, 1, 2)
"""Of the random plans."""
PLANS: tuple[tuple[str, str, str], ...] = (
    ("greedy dnll", "dnll", "greedy_full"),
    ("one-shot dnll", "dnll", "one_shot"),
    ("block influence", "block_influence", "one_shot"),
    ("angular block", "angular", "contiguous"),
    ("relative contribution", "relative_contribution", "one_shot"),
    ("taylor", "taylor", "one_shot"),
    ("magnitude", "magnitude", "one_shot"),
    ("last n", "last_n", "one_shot"),
)
"""Label, criterion, strategy."""
SEARCHES: tuple[tuple[str, str, str], ...] = (
    ("greedy, the default", "dnll", "greedy"),
    ("greedy in full", "dnll", "greedy_full"),
    ("beam", "dnll", "beam"),
    ("greedy, then exchanges", "dnll", "greedy_swap"),
    ("evolution", "dnll", "evolutionary"),
    ("blocks of two", "dnll", "blocks"),
    ("greedy by KL", "kl", "greedy"),
    ("greedy by the answers' NLL", "answer_nll", "greedy"),
    ("every k-th", "every_kth", "one_shot"),
)
"""Label, criterion, strategy of the searches that are set side by side."""
SUBSETS = 200
"""That evolution and exchanges may score."""
DATA_FREE = ("magnitude", "last_n", "random")
TASKS = {
    "lambada_openai": ("acc", 0.0),
    "hellaswag": ("acc_norm", 0.25),
    "arc_easy": ("acc_norm", 0.25),
    "piqa": ("acc_norm", 0.5),
}
"""Task -> metric, chance."""
ITEMS = 100
"""Of each task."""

Unit = Callable[[Bench], dict[str, Any]]


def data(bench: Bench) -> dict[str, Any]:
    """The documents."""
    return {"documents": prepare(bench.source, bench.folder / "data")}


def depth(bench: Bench, name: str, count: int | None, effects: bool = False) -> dict[str, Any]:
    """The analysis: the default measures, or (`effects`) what a skipped layer does to later ones."""
    domains = bench.domains(name, "calibration", only=MEASURED[name], count=count)
    chosen = {"measure": ("skip", "local", "future")} if effects else {}
    analysis = analyze(bench.model(name), domains, source=name, batch_size=BATCH, **chosen)
    where = bench.folder / "analysis" / (f"{name}-effects" if effects else name)
    shutil.rmtree(where, ignore_errors=True)  # of a unit that was stopped before its result stood
    analysis.save(where)
    info = {key: analysis.info[key] for key in ("data", "phase_changes", "stability", "warnings", "scalars", "seed")}
    return {"analysis": str(where.relative_to(bench.folder)), **info}


def questions(bench: Bench, name: str, count: int) -> dict[str, Any]:
    """How deep a worked answer still needs its question, on the shortest documents: long ones take hours."""
    whole = bench.domains(name, "healing", only=("math",))["math"]  # nothing is chosen here, and these are many
    short = tuple(sorted(whole.documents, key=lambda document: len(document.input_ids))[:count])
    domain = Domain("math", short, whole.source, f"{whole.sha256}:shortest {count}")
    analysis = analyze(bench.model(name), {"math": domain}, source=name, batch_size=BATCH, measure=ON_PROMPTS)
    tables = ("erasure/kl", "integrated_gradients/share")
    return {"data": analysis.info["data"], **{key: analysis[key].tolist() for key in tables}}  # [L, 8] each


def difficulty(bench: Bench, name: str, each: int) -> dict[str, Any]:
    """Do harder problems use more depth? MATH-500's levels, `each` problems of every one."""
    file = bench.folder / "data" / "levels" / f"{each}.jsonl"
    write_levels(bench.source, file, each)
    domain = load_domain("levels", str(file), bench.tokenizer(name), seq_length=LENGTHS["levels"])
    found = analyze(
        bench.model(name), {"levels": domain}, source=name, batch_size=BATCH, measure=("contributions", "dnll")
    )
    return {"documents": len(domain.documents), "difficulty": found.info["difficulty"]["levels"]}


def singles(bench: Bench, name: str, count: int | None) -> dict[str, Any]:
    """ΔNLL of each layer alone, document by document: how many documents a ranking needs."""
    evaluator = _evaluator(bench, name, "calibration", count=count, only=PLANNING)
    layers = range(LAYERS[name])
    scores = evaluator.score_many([[other for other in layers if other != layer] for layer in layers])
    return {
        "tokens": {domain: scores[0].tokens[domain].tolist() for domain in evaluator.domains},
        "dnll": {domain: [score.sums[domain].tolist() for score in scores] for domain in evaluator.domains},
    }


def plans(bench: Bench, name: str) -> dict[str, Any]:
    """Every criterion's plan at every depth; what is searched by ΔNLL runs on fewer documents."""
    model = bench.model(name)
    analysis = Analysis.load(bench.folder / "analysis" / name)
    names, domains = sorted(PLANNING), bench.domains(name, "calibration", only=PLANNING)
    weights = dict.fromkeys(names, 1.0)
    searcher = _evaluator(bench, name, "calibration", model=model, count=SEARCHED[name], only=PLANNING)
    alone = _single_scores(bench, name)
    dear = np.argsort(alone)[CANDIDATES[name] :].tolist()
    found = {}
    for wanted in DEPTHS[name]:
        common: dict[str, Any] = {"source": name, "num_layers": wanted, "analysis": analysis, "model": model,
                                  "score_cache": bench.folder / "scores.sqlite"}  # fmt: skip
        made = {}
        for label, criterion, strategy in PLANS:
            if label == "greedy dnll":
                made[label] = make_plan(
                    **common, criterion=criterion, strategy=strategy, evaluator=searcher, protect=dear
                )
            elif label == "one-shot dnll":
                made[label] = make_plan(
                    source=name, drop_layers=np.argsort(alone)[: LAYERS[name] - wanted].tolist(), model=model
                )
            else:
                extra = {} if criterion in DATA_FREE else {"domain_weights": weights}
                made[label] = make_plan(**common, criterion=criterion, strategy=strategy, domains=domains, **extra)
        for seed in SEEDS:
            made[f"random {seed}"] = make_plan(**common, criterion="random", strategy="one_shot", seed=seed)
        for label, plan in made.items():
            plan = with_scores(plan, searcher)
            plan.save(bench.folder / "plans" / name / f"{label}-{wanted}.json")
            found[f"{label}/{wanted}"] = {"drop": plan.drop, "dnll": plan.scores["dnll"]}
    return {
        "plans": found,
        "protected": dear,
        "evaluations": searcher.work.describe(),
        "predicted": _predictions(bench, name, model, analysis, domains, found),
    }


def _predictions(
    bench: Bench, name: str, model: Any, analysis: Analysis, domains: Mapping[str, Any], found: Mapping[str, Any]
) -> dict[str, dict[str, float]]:
    """Criterion -> plan -> what the criterion says the plan costs; greedy's own scores stand in `plans`."""
    alone = _single_scores(bench, name)
    weights = dict.fromkeys(sorted(PLANNING), 1.0)
    result: dict[str, dict[str, float]] = {"one-shot dnll": {}}
    for label, criterion, _ in PLANS[2:]:
        extra = {} if criterion in DATA_FREE else {"domain_weights": weights}
        context = Context(name, LAYERS[name], criterion, analysis=analysis, model=model, domains=domains,
                          score_cache=bench.folder / "scores.sqlite", **extra)  # fmt: skip
        scorer = get_criterion(criterion)
        result[label] = {}
        layer_scores = None if scorer.subset_costs else scorer.layer_scores(context, 1)
        for key, plan in found.items():
            keep = tuple(layer for layer in range(LAYERS[name]) if layer not in plan["drop"])
            if scorer.subset_costs is not None:
                (result[label][key],) = scorer.subset_costs(context, [keep])
            else:
                result[label][key] = float(sum(layer_scores[layer] for layer in plan["drop"]))
    for key, plan in found.items():
        result["one-shot dnll"][key] = float(sum(alone[layer] for layer in plan["drop"]))
    return result


def searches(bench: Bench, name: str, wanted: int) -> dict[str, Any]:
    """Every search from nothing, on the documents and among the candidates of `plans`, and its plan held out."""
    model = bench.model(name)
    held = _evaluator(bench, name, "held_out", model=model, count=JUDGED)
    domains = bench.domains(name, "calibration", count=SEARCHED[name], only=PLANNING)
    dear = np.argsort(_single_scores(bench, name))[CANDIDATES[name] :].tolist()
    found = {}
    for label, criterion, strategy in SEARCHES:
        evaluator = Evaluator(model, domains, batch_size=BATCH)  # no cache: what the search takes by itself
        plan = make_plan(source=name, num_layers=wanted, model=model, evaluator=evaluator, protect=dear,
                         criterion=criterion, strategy=strategy, tuning=Tuning(max_subsets=SUBSETS))  # fmt: skip
        work = evaluator.work.describe()
        found[label] = {
            "drop": plan.drop,
            "work": work,
            "calibration": evaluator.score(plan.keep).by_domain,
            "held_out": held.score(plan.keep).by_domain,
        }
        print(label, plan.drop, work, flush=True)
    return {"original": held.clean_nll(), "plans": found}


def held_out(bench: Bench, name: str) -> dict[str, Any]:
    """NLL of every plan on documents that no layer was chosen on."""
    evaluator = _evaluator(bench, name, "held_out", count=JUDGED)
    keys = list(bench.result(f"plans_{name}")["plans"])
    drops = [bench.plan(name, *_label(key)).keep for key in keys]
    scores = evaluator.score_many(drops)
    return {
        "original": evaluator.clean_nll(),
        "tokens": {domain: scores[0].tokens[domain].tolist() for domain in evaluator.domains},
        "dnll": {key: {d: s.sums[d].tolist() for d in s.sums} for key, s in zip(keys, scores, strict=True)},
    }


def original(bench: Bench, name: str) -> dict[str, Any]:
    """The original's likelihood of every held-out document, by a plain forward pass."""
    model = bench.model(name)
    return {"documents": held_out_nll(bench, name, model)}


def tasks(bench: Bench, name: str, label: str, wanted: int, checkpoint: str = "") -> dict[str, Any]:
    """Accuracy of a cut (or of a healed checkpoint) and of the original on the same items, with paired intervals."""
    specs, options = _task_specs(), _task_options(bench)
    tokenizer = bench.tokenizer(name)
    model = bench.model(name)
    first = run_tasks(model, tokenizer, specs, **options)
    if label != "original":
        plan = bench.plan(name, label, wanted)
        model = (
            bench.model(bench.result(checkpoint)["checkpoint"])
            if checkpoint
            else prune.cut(model, drop_layers=plan.drop)
        )
    second = first if label == "original" else run_tasks(model, tokenizer, specs, **options)
    suites = [Suite(name=s.task, title=s.task, tasks=[s]) for s in specs]
    evidence = judge(first, second, suites)
    return {
        "failures": {**first.failures, **second.failures},
        "tasks": {s.name: s.model_dump(mode="json") for s in evidence.suites},
    }


def plan_tasks(bench: Bench, name: str, wanted: int) -> dict[str, Any]:
    """Accuracy of every plan of a depth, and of the original, on the same items; answers are kept by the evaluation."""
    specs, options = _task_specs(), _task_options(bench)
    tokenizer, whole = bench.tokenizer(name), bench.model(name)
    first = run_tasks(whole, tokenizer, specs, **options)
    suites = [Suite(name=s.task, title=s.task, tasks=[s]) for s in specs]
    found = {}
    for key in (key for key in bench.result(f"plans_{name}")["plans"] if _label(key)[1] == wanted):
        cut = prune.cut(whole, drop_layers=bench.plan(name, *_label(key)).drop, copy=True)
        evidence = judge(first, run_tasks(cut, tokenizer, specs, **options), suites)
        found[key] = {suite.name: suite.tasks[0].model_dump(mode="json") for suite in evidence.suites}
    return {"tasks": found}


def _task_specs() -> list[TaskSpec]:
    return [TaskSpec(task=t, metric=m, chance=c, num_fewshot=0, limit=ITEMS) for t, (m, c) in TASKS.items()]


def _task_options(bench: Bench) -> dict[str, Any]:
    return {"local_data": bench.source, "batch_size": 16, "cache_dir": bench.folder / "evaluations"}


def _evaluator(
    bench: Bench, name: str, kind: str, *, model: Any = None, count: int | None = None, only: tuple[str, ...] = ()
) -> Evaluator:
    domains = bench.domains(name, kind, count=count, only=only)
    cache = bench.folder / "scores.sqlite"
    return Evaluator(model if model is not None else bench.model(name), domains, batch_size=BATCH, cache=cache)


def _single_scores(bench: Bench, name: str) -> np.ndarray:
    """ΔNLL per token of removing each layer alone, mean of the planning domains [L]."""
    found = bench.result(f"singles_{name}")
    each = [np.sum(found["dnll"][d], axis=1) / np.sum(found["tokens"][d]) for d in PLANNING]
    return np.mean(each, axis=0)


def _label(key: str) -> tuple[str, int]:
    label, depth = key.rsplit("/", 1)
    return label, int(depth)


def _healing(wanted: int, recipe: str, *, steps: int | None = None, seed: int | None = None, name: str = SMALL) -> Unit:
    own_steps, own_seed, changes = HEALINGS[recipe]
    return functools.partial(
        healing, name=name, wanted=wanted, steps=steps or own_steps, seed=own_seed if seed is None else seed,
        changes=changes,
    )  # fmt: skip


UNITS: dict[str, Unit] = {
    "data": data,
    f"depth_{SMALL}": functools.partial(depth, name=SMALL, count=None),
    f"singles_{SMALL}": functools.partial(singles, name=SMALL, count=16),
    f"plans_{SMALL}": functools.partial(plans, name=SMALL),
    f"held_out_{SMALL}": functools.partial(held_out, name=SMALL),
    f"original_{SMALL}": functools.partial(original, name=SMALL),
    f"original_{GEMMA}": functools.partial(original, name=GEMMA),
    "heal_24_rate": _healing(24, "rate 1e-3"),
    "heal_24_default": _healing(24, "rate 2e-4"),
    "heal_27_rate": _healing(27, "rate 1e-3"),
    f"depth_{GEMMA}": functools.partial(depth, name=GEMMA, count=12),
    "heal_24_full": _healing(24, "full at the gaps, 2e-4"),
    "heal_24_rate3": _healing(24, "rate 3e-3"),
    "heal_24_all": _healing(24, "all layers, 1e-3"),
    "heal_24_entropy": _healing(24, "weighted by entropy, 1e-3"),
    "heal_24_next": _healing(24, "next token only, 1e-3"),
    f"singles_{GEMMA}": functools.partial(singles, name=GEMMA, count=12),
    f"plans_{GEMMA}": functools.partial(plans, name=GEMMA),
    f"held_out_{GEMMA}": functools.partial(held_out, name=GEMMA),
    "heal_24_rank": _healing(24, "rank 64, 1e-3"),
    "heal_24_temperature": _healing(24, "temperature 2, 1e-3"),
    "heal_24_rate6": _healing(24, "rate 6e-3"),
    "heal_24_next3": _healing(24, "next token only, 3e-3"),
    "heal_24_all3": _healing(24, "all layers, 3e-3"),
    "heal_24_full6": _healing(24, "full at the gaps, 6e-4"),
    "heal_24_rate3_64": _healing(24, "rate 3e-3", steps=64),
    "heal_24_rate_64": _healing(24, "rate 1e-3", steps=64),
    "heal_24_next3_64": _healing(24, "next token only, 3e-3", steps=64),
    "heal_24_rate3_seed1": _healing(24, "rate 3e-3", seed=1),
    "heal_24_rate3_seed2": _healing(24, "rate 3e-3", seed=2),
    "heal_24_next3_seed1": _healing(24, "next token only, 3e-3", seed=1),
    "heal_24_next3_seed2": _healing(24, "next token only, 3e-3", seed=2),
    "heal_27_rate3": _healing(27, "rate 3e-3"),
    "heal_21_rate3": _healing(21, "rate 3e-3"),
    "heal_15_rate": _healing(15, "rate 1e-3", name=GEMMA),
    "heal_15_rate3": _healing(15, "rate 3e-3", name=GEMMA),
    **{
        f"tasks_{depth}_{state}": functools.partial(
            tasks, name=name, label="greedy dnll", wanted=depth, checkpoint=f"heal_{depth}_rate3" * (state == "healed")
        )
        for name, depth in ((SMALL, 24), (SMALL, 27), (SMALL, 21), (GEMMA, 15))
        for state in ("cut", "healed")
    },
    f"plan_tasks_27_{SMALL}": functools.partial(plan_tasks, name=SMALL, wanted=27),
    f"plan_tasks_24_{SMALL}": functools.partial(plan_tasks, name=SMALL, wanted=24),
    f"plan_tasks_15_{GEMMA}": functools.partial(plan_tasks, name=GEMMA, wanted=15),
    "heal_24_rate6_seed1": _healing(24, "rate 6e-3", seed=1),
    "heal_24_rate6_seed2": _healing(24, "rate 6e-3", seed=2),
    "heal_24_all3_seed1": _healing(24, "all layers, 3e-3", seed=1),
    "heal_24_all3_seed2": _healing(24, "all layers, 3e-3", seed=2),
    "heal_24_rank_seed1": _healing(24, "rank 64, 1e-3", seed=1),
    "heal_24_rank_seed2": _healing(24, "rank 64, 1e-3", seed=2),
    "heal_27_rate3_64": _healing(27, "rate 3e-3", steps=64),
    "heal_21_rate3_64": _healing(21, "rate 3e-3", steps=64),
    "heal_24_rate3_256": _healing(24, "rate 3e-3", steps=256),
    "heal_24_next3_256": _healing(24, "next token only, 3e-3", steps=256),
    "heal_24_rate3_640": _healing(24, "rate 3e-3", steps=640),
    "heal_24_next3_640": _healing(24, "next token only, 3e-3", steps=640),
    "heal_15_next3": _healing(15, "next token only, 3e-3", name=GEMMA),
    "heal_15_all3": _healing(15, "all layers, 3e-3", name=GEMMA),
    "heal_30_next3": functools.partial(trained_original, name=SMALL, steps=12),
    "heal_30_next3_64": functools.partial(trained_original, name=SMALL, steps=64),
    "heal_24_blocks": functools.partial(phased, name=SMALL, wanted=24, label="block-wise 4 steps, then 3e-3"),
    "heal_24_answers": functools.partial(phased, name=SMALL, wanted=24, label="the original's answers, 3e-3"),
    "heal_24_own": functools.partial(phased, name=SMALL, wanted=24, label="6 steps, then 6 on its own answers, 3e-3"),
    f"effects_{SMALL}": functools.partial(depth, name=SMALL, count=2, effects=True),
    f"difficulty_{SMALL}": functools.partial(difficulty, name=SMALL, each=6),
    f"difficulty_{GEMMA}": functools.partial(difficulty, name=GEMMA, each=3),
    f"effects_{GEMMA}": functools.partial(depth, name=GEMMA, count=2, effects=True),
    f"searches_24_{SMALL}": functools.partial(searches, name=SMALL, wanted=24),
    f"questions_{SMALL}": functools.partial(questions, name=SMALL, count=4),
    f"questions_{GEMMA}": functools.partial(questions, name=GEMMA, count=4),
}
"""Name -> unit, most important first."""
