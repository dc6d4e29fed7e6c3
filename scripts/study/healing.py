"""Healing in the study: a cut trained by one of several recipes, in phases or not, judged on held-out documents."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

import prune
from prune.data.domains import Domain, load_domain
from prune.healing.heal import heal
from prune.healing.settings import HealSettings
from prune.planning.plan import Plan
from study.bench import LENGTHS, Bench, document_nll

JUDGED = 16
"""Held-out documents of each domain."""
_HEALING: dict[str, Any] = {"per_device_train_batch_size": 4, "max_length": 256, "eval_max_documents": 8}


def healing(bench: Bench, name: str, wanted: int, steps: int, seed: int, changes: Mapping[str, Any]) -> dict[str, Any]:
    """A cut trained on `steps` batches of 4 rows of 256 tokens, then judged as a bfloat16 checkpoint would be."""
    plan = bench.plan(name, "greedy dnll", wanted)
    student = prune.cut(bench.model(name), drop_layers=plan.drop)
    before = held_out_nll(bench, name, student)
    own = {"max_steps": steps, "eval_steps": steps, "seed": seed, **_gap(changes, plan)}
    settings = HealSettings(**{**_HEALING, **own})
    domains = bench.domains(name, "healing")
    unit = f"{name}-{wanted}-{steps}-{seed}-{'-'.join(f'{k}={v}' for k, v in changes.items()) or 'default'}"
    result = heal(student, bench.model(name), domains, settings, kept_layers=plan.keep,
                  output_dir=bench.folder / "training" / unit)  # fmt: skip
    model = result.model.to(torch.bfloat16)
    checkpoint = bench.folder / "healed" / unit
    model.save_pretrained(checkpoint)
    model = model.float()
    return {
        "drop": plan.drop,
        "changes": dict(changes),
        "settings": settings.model_dump(),
        "tokens": result.tokens_seen,
        "trained_parameters": result.trained_parameters,
        "best_step": result.best_step,
        "history": result.history,
        "checkpoint": str(checkpoint.relative_to(bench.folder)),
        "cut": before,
        "healed": held_out_nll(bench, name, model),
    }


def trained_original(bench: Bench, name: str, steps: int) -> dict[str, Any]:
    """The original itself, trained on the same text: what data gives without any layer being missing."""
    model = bench.model(name)
    before = held_out_nll(bench, name, model)
    changes = HEALINGS["next token only, 3e-3"][2]
    settings = HealSettings(**{**_HEALING, "max_steps": steps, "eval_steps": steps, "lora_layers": "all", **changes})
    scratch = bench.folder / "training" / f"{name}-whole-{steps}"
    result = heal(model, None, bench.domains(name, "healing"), settings, output_dir=scratch)
    return {
        "changes": changes,
        "settings": settings.model_dump(),
        "tokens": result.tokens_seen,
        "trained_parameters": result.trained_parameters,
        "cut": before,
        "healed": held_out_nll(bench, name, result.model.to(torch.bfloat16).float()),
    }


@dataclass(frozen=True)
class Phase:
    """Part of a healing in several: so many steps with changed settings, on other mathematics if `answers` says so.

    Attributes:
        answers: whose greedy answers to the healing questions stand in for the worked ones: original or student.
    """

    steps: int
    changes: Mapping[str, Any]
    answers: Literal["", "original", "student"] = ""


def phased(bench: Bench, name: str, wanted: int, label: str) -> dict[str, Any]:
    """A cut healed in phases, each beginning where the last ended; tokens of answers that were trained on count."""
    plan = bench.plan(name, "greedy dnll", wanted)
    original = bench.model(name)
    student = prune.cut(bench.model(name), drop_layers=plan.drop)
    before = held_out_nll(bench, name, student)
    tokens, settings = 0, HealSettings()
    for number, phase in enumerate(PHASED[label]):
        settings = HealSettings(**{**_HEALING, "max_steps": phase.steps, "eval_steps": phase.steps, **phase.changes})
        domains = dict(bench.domains(name, "healing"))
        if phase.answers:
            domains["math"] = _answered(bench, name, original if phase.answers == "original" else student)
        scratch = bench.folder / "training" / f"{name}-{wanted}-{label}-{number}"
        result = heal(student, original, domains, settings, kept_layers=plan.keep, output_dir=scratch)
        student, tokens = result.model, tokens + result.tokens_seen
    model = student.to(torch.bfloat16).float()
    return {
        "drop": plan.drop,
        "changes": {"phases": label},
        "settings": settings.model_dump(),
        "tokens": tokens,
        "trained_parameters": result.trained_parameters,
        "cut": before,
        "healed": held_out_nll(bench, name, model),
    }


def _answered(bench: Bench, name: str, model: Any) -> Domain:
    """The first healing questions with a model's own greedy answers."""
    rows = (bench.folder / "data" / "healing" / "math.jsonl").read_text(encoding="utf8").splitlines()[:ANSWERED]
    prompts = [{"prompt": json.loads(row)["question"] + "\n"} for row in rows]
    made = prune.generate(
        model, data={"math": prompts}, tokenizer=bench.tokenizer(name), max_new_tokens=96, batch_size=16
    )
    return load_domain("math", made.rows, bench.tokenizer(name), seq_length=LENGTHS["math"])


def held_out_nll(bench: Bench, name: str, model: Any) -> dict[str, dict[str, list[float]]]:
    """Domain -> its held-out documents' likelihoods, see `document_nll`."""
    domains = bench.domains(name, "held_out", count=JUDGED)
    return {domain: document_nll(model, own) for domain, own in domains.items()}


def _gap(changes: Mapping[str, Any], plan: Plan) -> dict[str, Any]:
    """`train_layers: gap` means the layers beside each gap, in the cut model's numbers."""
    if changes.get("train_layers") != "gap":
        return dict(changes)
    starts = {layer - index for index, layer in enumerate(plan.drop)}  # the first kept layer after each gap
    beside = starts | {start - 1 for start in starts}
    return {**changes, "train_layers": sorted(beside & set(range(len(plan.keep))))}


HEALINGS: dict[str, tuple[int, int, dict[str, Any]]] = {
    "rate 2e-4": (12, 0, {"learning_rate": 2e-4}),
    "rate 1e-3": (12, 0, {"learning_rate": 1e-3}),
    "all layers, 1e-3": (12, 0, {"learning_rate": 1e-3, "lora_layers": "all"}),
    "rate 3e-3": (12, 0, {"learning_rate": 3e-3}),
    "full at the gaps, 2e-4": (12, 0, {"method": "full", "learning_rate": 2e-4, "train_layers": "gap"}),
    "next token only, 1e-3": (12, 0, {"learning_rate": 1e-3, "distill_weight": 0.0, "next_token_weight": 1.0}),
    "temperature 2, 1e-3": (12, 0, {"learning_rate": 1e-3, "temperature": 2.0}),
    "weighted by entropy, 1e-3": (12, 0, {"learning_rate": 1e-3, "distill_weight": 0.0, "entropy_weight": 1.0}),
    "rank 64, 1e-3": (12, 0, {"learning_rate": 1e-3, "lora_r": 64, "lora_alpha": 128.0}),
    "rate 6e-3": (12, 0, {"learning_rate": 6e-3}),
    "next token only, 3e-3": (12, 0, {"learning_rate": 3e-3, "distill_weight": 0.0, "next_token_weight": 1.0}),
    "all layers, 3e-3": (12, 0, {"learning_rate": 3e-3, "lora_layers": "all"}),
    "full at the gaps, 6e-4": (12, 0, {"method": "full", "learning_rate": 6e-4, "train_layers": "gap"}),
}
"""Recipe -> optimiser steps, seed, changes to the default settings."""
ANSWERED = 80
"""Questions that a model answers to be trained on."""
_RATE = {"learning_rate": 3e-3}
_BLOCKS = {"distill_weight": 0.0, "next_token_weight": 0.0, "residual_weight": 1.0}
PHASED: dict[str, tuple[Phase, ...]] = {
    "block-wise 4 steps, then 3e-3": (Phase(4, {**_RATE, **_BLOCKS}), Phase(8, _RATE)),
    "the original's answers, 3e-3": (Phase(12, _RATE, "original"),),
    "6 steps, then 6 on its own answers, 3e-3": (
        Phase(6, _RATE), Phase(6, {**_RATE, "next_token_weight": 0.0}, "student"),
    ),
}  # fmt: skip
"""Recipe -> its phases; a student's own answers are no text to predict, so they are only distilled on."""
