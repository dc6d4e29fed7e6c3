"""Several checkpoints side by side: what they can do, what they cost, how they use depth and width, which are worth it.

The first one is the reference: retention is against it. Any checkpoints will do (an original, its pruned and healed
versions, another shallower model), as long as the tests put the same prompts to all; only then are scores paired.
A checkpoint is on the Pareto front when no other is at least as good and as cheap and better in one of the two.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from evals.cost import Footprint
from evals.evidence import Evidence, SuiteEvidence
from evals.progress import stage
from evals.score import Score, Side
from evals.throughput import Throughput
from prune.data.domains import Domain, pad_token
from prune.errors import UsageError
from prune.files import write_json
from prune.wording import Message, Text
from prune.wording.message import measured_setting

if TYPE_CHECKING:
    from evals.suite import Suite
    from prune.analysis.depth_map import DepthMap
    from prune.analysis.result import Analysis


class Compared(BaseModel):
    """One checkpoint.

    Attributes:
        footprint, throughput: what it costs.
        evidence: of every suite, against the reference; of the reference any other checkpoint's.
        is_reference: the first of the comparison.
        draft: of a pair, the checkpoint that proposes what the reference then says: answers are the reference's,
            memory is that of both, speed the reference's times the speed-up measured with `prune draft`.
        depth_score: mean layer weighted by relative contribution, as a share of the depth; 0.5 is even use.
        block_influence: [L] per layer.
        relative_contribution: [L] per layer.
        width_used: largest participation ratio of the stream over depths, as a share of its width.
        pareto: on the front of quality against decode time per token; None when quality or speed is unknown.
    """

    model_config = ConfigDict(extra="forbid")

    name: str
    footprint: Footprint
    throughput: Throughput
    evidence: list[SuiteEvidence] = []
    is_reference: bool = False
    draft: str | None = None
    depth_score: float | None = None
    block_influence: list[float] | None = None
    relative_contribution: list[float] | None = None
    width_used: float | None = None
    pareto: bool | None = None

    @property
    def suites(self) -> dict[str, Score]:
        """Suite -> what it scored."""
        side: Side = "original" if self._answers_as_reference else "candidate"
        return {suite.name: Score(suite, side) for suite in self.evidence}

    @property
    def _answers_as_reference(self) -> bool:
        return self.is_reference or self.draft is not None

    @property
    def quality(self) -> float | None:
        """Mean retention over suites (1 for the reference); None where one is undefined or nothing was tested."""
        if not self.evidence:
            return None
        kept = [1.0 if self._answers_as_reference else suite.retention for suite in self.evidence]
        return None if any(k is None for k in kept) else float(np.mean([k for k in kept if k is not None]))


class Comparison(BaseModel):
    """The rows, the reference first, and what was not measured."""

    model_config = ConfigDict(extra="forbid")

    models: list[Compared]
    setting: Message
    depth_map: dict[str, Any] | None = None

    def save(self, path: Path, lang: str = "en") -> None:
        """As JSON, atomically; messages with their sentence in that language."""
        write_json(path, Text(lang).spelled(self.model_dump(mode="json")))


def compare_models(
    models: Mapping[str, Any],
    tokenizers: Mapping[str, Any],
    domains: Mapping[str, Mapping[str, Domain]],
    directories: Mapping[str, Path],
    *,
    suites: Sequence[Suite],
    tests: Mapping[str, Any],
    speed: Mapping[str, int],
    mapped: bool,
    batch_size: int,
    bootstrap: int,
    alpha: float,
    seed: int,
    speedups: Mapping[str, float] | None = None,
) -> tuple[Comparison, dict[str, Evidence], DepthMap | None]:
    """Measure loaded models, the reference first.

    Args:
        models, tokenizers, domains: by name, in one order; no documents, no depth use.
        directories: where those lie that are on disk.
        suites: none, no quality.
        tests: options of `evals.harness.run_tasks`.
        speed: options of `evals.measured.measure_models`.
        mapped: fit the depth map from the first model to the second.
        batch_size: documents at a time.
        bootstrap: resamples behind the intervals of the depth use.
        alpha: error rate of the gate over all suites.
        seed: of every random choice.
        speedups: checkpoints that are drafts of the first: name -> how much faster the pair was measured to be.

    Returns:
        The comparison, the evidence of every model but the reference, and the map.

    Raises:
        EvalError: a tokenizer that makes the tests different.
        PruneError: documents that cannot be measured.
    """
    from evals.measured import measure_models

    evidence = _quality(models, tokenizers, suites, alpha, {**tests, "seed": seed})
    with stage("speed"):
        costs = measure_models(models, directories, **speed)
    passes: dict[str, Any] = {"batch_size": batch_size, "seed": seed}
    rows = []
    for number, (name, model) in enumerate(models.items()):
        own = evidence[name] if name in evidence else next(iter(evidence.values()), None)
        passes["pad_token_id"] = pad_token(tokenizers[name])
        with stage("depth use", item=name):
            use = _depth_use(model, domains[name], bootstrap, passes) if domains[name] else {}
        rows.append(
            Compared(
                name=name,
                footprint=costs[name].footprint,
                throughput=costs[name].throughput,
                evidence=own.suites if own else [],
                is_reference=number == 0,
                **use,
            )
        )
    rows += [pair_of(rows[0], row, speedups[row.name]) for row in rows[1:] if speedups and row.name in speedups]
    mark_pareto(rows)
    fitted = _depth_map(models, tokenizers, domains, batch_size, seed) if mapped else None
    setting = measured_setting(rows[0].throughput.to_dict())
    return Comparison(models=rows, setting=setting, depth_map=fitted.as_dict() if fitted else None), evidence, fitted


def pair_of(reference: Compared, draft: Compared, speedup: float) -> Compared:
    """Original and draft as one row."""
    own, other = reference.footprint, draft.footprint
    both = Footprint(
        parameters=own.parameters + other.parameters,
        bytes=own.bytes + other.bytes,
        kv_bytes_per_token=own.kv_bytes_per_token + other.kv_bytes_per_token,
        layers=own.layers,
    )
    rate = reference.throughput.decode_tokens_per_s * speedup
    return Compared(
        name=f"{reference.name} + {draft.name}",
        footprint=both,
        throughput=replace(reference.throughput, decode_tokens_per_s=rate),
        evidence=reference.evidence,
        draft=draft.name,
    )


def _quality(
    models: Mapping[str, Any],
    tokenizers: Mapping[str, Any],
    suites: Sequence[Suite],
    alpha: float,
    tests: Mapping[str, Any],
) -> dict[str, Evidence]:
    """Evidence of every model but the first, against the first; empty without suites."""
    if not suites:
        return {}
    from evals.gate import judge
    from evals.harness import run_tasks

    tasks = [task for suite in suites for task in suite.tasks]
    results = {}
    with stage("testing", len(models), "models") as testing:
        for name, model in models.items():
            testing.item = name
            results[name] = run_tasks(model, tokenizers[name], tasks, **tests)
            testing.advance()
    reference, *others = models
    found = {}
    for name in others:
        evidence = judge(results[reference], results[name], suites, alpha=alpha, seed=tests["seed"])
        evidence.original_model, evidence.candidate_model = reference, name
        found[name] = evidence
    return found


def _depth_use(model: Any, domains: Mapping[str, Domain], bootstrap: int, passes: Mapping[str, Any]) -> dict[str, Any]:
    from prune.analysis import analyze

    analysis = analyze(model, domains, measure=("contributions", "width"), bootstrap=bootstrap, **passes)
    return depth_use(analysis, int(model.get_input_embeddings().weight.shape[1]))


def _depth_map(
    models: Mapping[str, Any],
    tokenizers: Mapping[str, Any],
    domains: Mapping[str, Mapping[str, Domain]],
    batch_size: int,
    seed: int,
) -> DepthMap:
    from prune.analysis.depth_map import depth_map

    first, second = models
    pad = pad_token(tokenizers[first])
    return depth_map(
        models[first], models[second], domains[first], batch_size=batch_size, pad_token_id=pad, seed=seed
    )  # fmt: skip


def check_depth_map(first: Mapping[str, Domain], second: Mapping[str, Domain]) -> None:
    """What makes a depth map impossible should not be found out after hours of tests.

    Args:
        first, second: the same domains, read by each model's tokenizer.

    Raises:
        UsageError: the tokenizers split them differently.
        PruneError: too few documents.
    """
    from prune.analysis.depth_map import check_count

    check_count(sum(len(domain.documents) for domain in first.values()))
    for (name, a), b in zip(first.items(), second.values(), strict=True):
        pairs = itertools.zip_longest(a.documents, b.documents)
        if any(x is None or y is None or x.input_ids != y.input_ids for x, y in pairs):
            raise UsageError(
                f"depth_map: the two models' tokenizers split {name} differently, so their positions do not match"
            )


def depth_use(analysis: Analysis, width: int) -> dict[str, Any]:
    """The fields of `Compared` that an analysis gives.

    Args:
        analysis: with contributions; residual width where it was measured.
        width: d_model, of the stream.
    """
    contribution = analysis["relative_contribution/layer"].astype(np.float64)  # [L]
    deepest = max(1, analysis.num_layers - 1)
    found: dict[str, Any] = {
        "depth_score": float(contribution @ np.arange(len(contribution)) / contribution.sum() / deepest),
        "relative_contribution": contribution.tolist(),
        "block_influence": analysis["block_influence"].astype(np.float64).tolist(),
    }
    ratio = analysis.measurements.get("width/participation_ratio")
    if ratio is not None:
        found["width_used"] = float(ratio.max() / width)
    return found


def mark_pareto(models: Sequence[Compared]) -> None:
    """Set `pareto` on every checkpoint of known quality and speed."""
    known = [(m, m.quality, m.throughput.decode_tokens_per_s) for m in models]
    points = [(m, quality, 1 / speed) for m, quality, speed in known if quality is not None and speed]
    for model, quality, cost in points:
        model.pareto = not any(
            other_quality >= quality and other_cost <= cost and (other_quality > quality or other_cost < cost)
            for _, other_quality, other_cost in points
        )
