"""Plans by every criterion and search, what each criterion predicts of them, and what they cost held out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from prune.analysis.result import Analysis
from prune.planning.context import Context
from prune.planning.evaluator import Evaluator
from prune.planning.planner import make_plan, with_scores
from prune.planning.registry import get_criterion
from prune.planning.tuning import Tuning
from study.bench import BATCH, Bench
from study.depth import single_scores
from study.settings import (
    CANDIDATES,
    DATA_FREE,
    DEPTHS,
    JUDGED,
    LAYERS,
    PLANNING,
    PLANS,
    SEARCHED,
    SEARCHES,
    SEEDS,
    SUBSETS,
)


def plans(bench: Bench, name: str) -> dict[str, Any]:
    """Every criterion's plan at every depth; what is searched by ΔNLL runs on fewer documents."""
    model = bench.model(name)
    analysis = Analysis.load(bench.folder / "analysis" / name)
    names, domains = sorted(PLANNING), bench.domains(name, "calibration", only=PLANNING)
    weights = dict.fromkeys(names, 1.0)
    searcher = bench.evaluator(name, "calibration", model=model, count=SEARCHED[name], only=PLANNING)
    alone = single_scores(bench, name)
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
    alone = single_scores(bench, name)
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
    held = bench.evaluator(name, "held_out", model=model, count=JUDGED)
    domains = bench.domains(name, "calibration", count=SEARCHED[name], only=PLANNING)
    dear = np.argsort(single_scores(bench, name))[CANDIDATES[name] :].tolist()
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
    evaluator = bench.evaluator(name, "held_out", count=JUDGED)
    keys = list(bench.result(f"plans_{name}")["plans"])
    drops = [bench.plan(name, *label_of(key)).keep for key in keys]
    scores = evaluator.score_many(drops)
    return {
        "original": evaluator.clean_nll(),
        "tokens": {domain: scores[0].tokens[domain].tolist() for domain in evaluator.domains},
        "dnll": {key: {d: s.sums[d].tolist() for d in s.sums} for key, s in zip(keys, scores, strict=True)},
    }


def label_of(key: str) -> tuple[str, int]:
    label, depth = key.rsplit("/", 1)
    return label, int(depth)
