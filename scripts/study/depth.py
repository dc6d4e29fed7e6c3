"""How a model uses its depth: the analyses, and what single layers cost document by document."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np

from prune.analysis import analyze
from prune.analysis.registry import ON_PROMPTS
from prune.data.domains import Domain, load_domain
from study.bench import BATCH, LENGTHS, Bench
from study.documents import write_levels
from study.settings import LAYERS, MEASURED, PLANNING


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
    evaluator = bench.evaluator(name, "calibration", count=count, only=PLANNING)
    layers = range(LAYERS[name])
    scores = evaluator.score_many([[other for other in layers if other != layer] for layer in layers])
    return {
        "tokens": {domain: scores[0].tokens[domain].tolist() for domain in evaluator.domains},
        "dnll": {domain: [score.sums[domain].tolist() for score in scores] for domain in evaluator.domains},
    }


def single_scores(bench: Bench, name: str) -> np.ndarray:
    """ΔNLL per token of removing each layer alone, mean of the planning domains [L]."""
    found = bench.result(f"singles_{name}")
    each = [np.sum(found["dnll"][d], axis=1) / np.sum(found["tokens"][d]) for d in PLANNING]
    return np.mean(each, axis=0)
