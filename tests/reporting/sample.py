"""A realistic run to draw: 16 layers, stories fine at 12 of them, arithmetic collapsing at 14.

The figures are invented by simple formulas with a seeded generator; nothing here was measured.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from evals.cost import Footprint, Sensitivity
from evals.evidence import SuiteEvidence, TaskEvidence, Verdict
from evals.speculative import DraftResult
from evals.throughput import Throughput
from prune.analysis.result import Analysis
from prune.comparison import Compared, Comparison
from prune.planning.plan import Plan
from prune.reporting.data import (
    AnalysisView,
    Candidate,
    Cost,
    Draft,
    Exported,
    ReportData,
    Stage,
    SuiteVerdict,
)
from prune.wording import message
from prune.wording.message import ends

LAYERS = 16
ORDER = [11, 10, 9, 12, 8, 6]  # dropped layers, best first
GENERAL: dict[tuple[int, Stage], float] = {
    (16, "original"): 0.968, (14, "pruned"): 0.951, (14, "healed"): 0.966, (12, "pruned"): 0.872,
    (12, "healed"): 0.957, (10, "pruned"): 0.611, (10, "healed"): 0.884,
}  # fmt: skip
MATH: dict[tuple[int, Stage], float] = {
    (16, "original"): 0.943, (14, "pruned"): 0.418, (14, "healed"): 0.731, (12, "pruned"): 0.102,
    (12, "healed"): 0.297, (10, "pruned"): 0.014, (10, "healed"): 0.061,
}  # fmt: skip
ITEMS = 400
PER_LAYER = 230_000
FIXED = 1_050_000


def _task(name: str, values: tuple[float, float], spread: tuple[float, float], **changes: Any) -> TaskEvidence:
    """One task of the original and of a candidate, each value with the same distances to its ends."""
    (original, candidate), (below, above) = values, spread
    return TaskEvidence(
        **{
            "task": name, "name": name, "metric": "acc", "filter": "none", "higher_is_better": True, "n": ITEMS,
            "original": original, "original_lo": original - below, "original_hi": original + above,
            "candidate": candidate, "candidate_lo": candidate - below, "candidate_hi": candidate + above,
            "chance": 0.0, "retention": candidate / original, "floor": 0.95, "verdict": "INCONCLUSIVE", **changes,
        }
    )  # fmt: skip


def _suite(name: str, titles: dict[str, str], values: tuple[float, float], tasks: list[TaskEvidence]) -> SuiteEvidence:
    original, candidate = values

    def half(accuracy: float) -> float:
        return 1.96 * (accuracy * (1 - accuracy) / ITEMS) ** 0.5

    def ends(accuracy: float) -> tuple[float, float]:
        return max(0.0, accuracy - half(accuracy)), min(1.0, accuracy + half(accuracy))

    low, high = candidate / original - half(candidate) * 0.7, candidate / original + half(candidate) * 0.7
    return SuiteEvidence(
        name=name, title=titles["en"], titles={"ja": titles["ja"]}, tasks=tasks, n=ITEMS, original=original,
        original_lo=ends(original)[0], original_hi=ends(original)[1], candidate=candidate,
        candidate_lo=ends(candidate)[0], candidate_hi=ends(candidate)[1], chance=0.0, alpha=0.05,
        retention=candidate / original, retention_lo=low, retention_hi=high, floor=0.95,
        verdict="PASS" if low >= 0.95 else "FAIL" if high < 0.95 else "INCONCLUSIVE",
    )  # fmt: skip


def sample_evidence(depth: int, stage: Stage) -> list[SuiteEvidence]:
    """Both suites and the perplexity of one candidate; of the original, against itself."""
    best = (LAYERS, "original")
    general, math = (GENERAL[best], GENERAL[depth, stage]), (MATH[best], MATH[depth, stage])
    text = {"metric": "bits_per_byte", "n": 50, "higher_is_better": False}
    stories = [
        _task("story_questions", general, (0.02, 0.02)),
        _task("arithmetic_2da", (min(1.0, math[0] * 1.03), min(1.0, math[1] * 1.03)), (0.04, 0.04), n=200),
        _task("arithmetic_3da", (math[0] * 0.97, math[1] * 0.97), (0.06, 0.02), n=200),
    ]
    bits = _task("story_text", (0.71 / general[0], 0.71 / general[1]), (0.01, 0.01), **text)
    share = bits.original / bits.candidate
    language = _suite("text", {"en": "Text", "ja": "文章"}, (0.71, 0.71), [bits]).model_copy(update={
        "original": bits.original, "original_lo": bits.original_lo, "original_hi": bits.original_hi,
        "candidate": bits.candidate, "candidate_lo": bits.candidate_lo, "candidate_hi": bits.candidate_hi,
        "retention": share, "retention_lo": share - 0.02, "retention_hi": share + 0.02, "n": bits.n,
        "verdict": "PASS" if share - 0.02 >= 0.95 else "FAIL" if share + 0.02 < 0.95 else "INCONCLUSIVE",
    })  # fmt: skip
    return [
        _suite("stories", {"en": "Stories", "ja": "物語"}, general, stories[:1]),
        _suite("arithmetic", {"en": "Arithmetic", "ja": "計算"}, math, stories[1:]),
        language,
    ]


def sample_candidates() -> list[Candidate]:
    """The original and six candidates, with scores, sizes and speeds."""
    candidates = []
    for (depth, stage), general in GENERAL.items():
        math = MATH[depth, stage]
        parameters = FIXED + PER_LAYER * depth
        speed = 410.0 * (16 + 2.5) / (depth + 2.5)
        drop = sorted(ORDER[: LAYERS - depth])
        candidates.append(
            Candidate(
                num_layers=depth,
                stage=stage,
                drop=drop,
                keep=[layer for layer in range(LAYERS) if layer not in drop],
                evidence=sample_evidence(depth, stage),
                perplexity={"stories": round(4.1 / general**2, 3), "arithmetic": round(1.3 / max(math, 0.05), 3)},
                bits_per_byte={"stories": round(0.71 / general, 4)},
                parameters=parameters,
                bytes=2 * parameters,
                kv_bytes_per_token=2 * 2 * 64 * depth,
                prefill_tokens_per_s=9000 * 18.5 / (depth + 2.5),
                decode_tokens_per_s=speed,
                decode_speedup=speed / 410.0,
                cost_per_million_tokens=0.34 * 410.0 / speed,
                heal_seconds=74.0 if stage == "healed" else None,
                heal_tokens=61_000 if stage == "healed" else None,
                healing_cost=0.0103 if stage == "healed" else None,
                break_even_tokens=138_000 if stage == "healed" else None,
            )
        )
    return candidates


def sample_analysis(model: str = "demo/counting-16") -> Analysis:
    """All the core measurements, and one of each optional kind, with intervals and two domains."""
    random = np.random.default_rng(0)
    depth = np.arange(LAYERS)
    dip = np.exp(-(((depth - 10.3) / 2.4) ** 2))  # the layers that write little
    arrays: dict[str, np.ndarray] = {}

    def put(key: str, value: np.ndarray, spread: float, domains: bool = True) -> None:
        groups = [("", 1.0), ("by_domain/stories/", 0.93), ("by_domain/arithmetic/", 1.1)]
        for prefix, factor in groups if domains else groups[:1]:
            centre = value * factor
            arrays[prefix + key] = centre
            arrays[prefix + key + ".lo"] = centre - spread * np.abs(centre) - 0.004
            arrays[prefix + key + ".hi"] = centre + spread * np.abs(centre) + 0.004

    attn = 0.42 * np.exp(-depth / 5) + 0.20 - 0.15 * dip + 0.01 * random.standard_normal(LAYERS)
    mlp = 0.55 * np.exp(-depth / 4) + 0.30 - 0.22 * dip + 0.02 * random.standard_normal(LAYERS)
    put("relative_contribution/attn", attn, 0.06)
    put("relative_contribution/mlp", mlp, 0.06)
    put("relative_contribution/layer", np.sqrt(attn**2 + mlp**2), 0.06)
    cosine = 0.34 * np.cos(depth / 15 * 2.9) - 0.05
    put("contribution_cosine/attn", cosine * 0.7, 0.1)
    put("contribution_cosine/mlp", cosine, 0.1)
    put("contribution_cosine/layer", cosine * 0.9, 0.1)
    put("block_influence", 0.18 * np.exp(-depth / 4) + 0.05 - 0.04 * dip, 0.08)
    step = 0.03 + 0.07 * np.exp(-depth / 4) + 0.03 * (1 - dip)
    position = np.concatenate([[0], np.cumsum(step)])
    triangle = np.triu(1 - np.exp(-np.abs(position[None, :] - position[:, None])), 1) * 0.5
    for kind in ("last", "all"):
        put(f"angular_distance/{kind}", triangle, 0.05, domains=False)
    base = 0.03 + 4 * np.exp(-depth / 1.1) + 0.25 * (1 - dip)
    for prefix, factor in (("", 1.4), ("by_domain/stories/", 0.7), ("by_domain/arithmetic/", 2.4)):
        value = base * factor
        for suffix, scale in (("", 1.0), (".lo", 0.8), (".hi", 1.22)):
            arrays[f"{prefix}output_effect/dnll{suffix}"] = value * scale
    kept = np.clip(0.6 * dip + 0.3 * (1 - dip), 0.02, 0.58)  # of arithmetic; stories are plain text
    for prefix in ("", "by_domain/arithmetic/"):
        for suffix, shift in (("", 0.0), (".lo", -0.05), (".hi", 0.05)):
            arrays[f"{prefix}output_effect/answer_accuracy{suffix}"] = np.clip(kept + shift, 0, 1)
    put("output_effect/top1", 0.8 + 0.12 * dip - 0.5 * (depth == 0), 0.03)
    skip = np.triu(0.4 * np.exp(-np.abs(depth[None, :] - depth[:, None]) / 4) * (1.2 - dip)[:, None], 1)
    put("skip_effect/layer/mean", skip, 0.05, domains=False)
    put("lens/kl", 9 * (1 - np.arange(LAYERS + 1) / LAYERS) ** 1.5, 0.03, domains=False)
    put("width/participation_ratio", 4 + 20 * np.sin(np.arange(LAYERS + 1) / LAYERS * 2.6), 0.05, domains=False)
    info = {
        "model": model,
        "revision": "0f3a9c",
        "num_layers": LAYERS,
        "hashes": {"model": "sha256:5d1e" + "0" * 12},
        "data": {"stories": {"documents": 64, "tokens": 8192}, "arithmetic": {"documents": 256, "tokens": 5120}},
        "seed": 0,
        "versions": {"torch": "2.13", "transformers": "5.23"},
        "scalars": {"answer_accuracy_clean": 0.6, "by_domain/arithmetic/answer_accuracy_clean": 0.6},
        "phase_changes": {
            "cosine_sign_flip": {"layer": 8, "lo": 7, "hi": 9, "found_share": 0.99},
            "contribution_change_point": {"layer": 4, "lo": 3, "hi": 6, "found_share": 1.0},
            "future_effect_change_point": None,
        },
        "stability": {
            "block_influence": {"layers": [9, 10, 11, 12], "same_set": 0.91, "overlap": 0.97, "documents_needed": 320},
            "output_effect/dnll": {
                "layers": [9, 10, 11, 13],
                "same_set": 0.4,
                "overlap": 0.8,
                "documents_needed": None,
            },
        },
        "messages": [message("warn_short", domain="stories", documents=2).model_dump(mode="json")],
    }
    return Analysis(info, {key: value.astype(np.float32) for key, value in arrays.items()})


def sample_report(title: str = "demo/counting-16") -> ReportData:
    """A finished run: 12 healed layers exported for stories, arithmetic refused."""
    candidates = sample_candidates()
    by_key = {candidate.key: candidate for candidate in candidates}
    stories, arithmetic = by_key["12-healed"].evidence[:2]
    return ReportData(
        title=title,
        generated_at="2026-11-24 00:40 UTC",
        ship="PARTIAL",
        verdicts=[
            SuiteVerdict(evidence=stories, recommendation="use shallow", num_layers=12, stage="healed"),
            SuiteVerdict(
                evidence=arithmetic, recommendation="shallow as draft", num_layers=12, stage="healed",
                reason=message("sentences", parts=[
                    message("reason_none_passes", kept=message(
                        "kept_share", candidate=message("layers_stage", layers=14, stage=message("stage_healed")),
                        share=0.775, interval=ends(0.73, None), floor=0.95,
                    )),
                    message("reason_undecided", items=900),
                    message("reason_draft", layers=10, identical=200, prompts=200, accepted=0.61, speedup=1.12),
                ]),
            ),
        ],
        candidates=candidates,
        exported=Exported(
            num_layers=12, stage="healed", passed=["stories"], refused=["arithmetic"],
            overrides=[message("override_fallback", suite={"en": "Arithmetic", "ja": "計算"})],
        ),
        analysis=AnalysisView.from_analysis(sample_analysis(title)),
        plans=[
            Plan(source=title, num_layers=LAYERS, keep=sorted(set(range(LAYERS)) - set(ORDER[:count])),
                 drop=sorted(ORDER[:count]), order=ORDER[:count], criterion="dnll", strategy="greedy",
                 scores={"steps": [0.031 * (i + 1) for i in range(count)]})
            for count in (2, 4, 6)
        ],
        cost=Cost(
            price_per_gpu_hour=0.50, healing_seconds=74.0, healing_cost=0.0103, break_even_tokens=138_000,
            price_note={"en": "example price, not a quotation", "ja": "単価は例で、見積もりではありません"},
            sensitivity=[
                Sensitivity(name="healing_tokens", low=0.5, high=2, at_low=69_000, at_high=276_000),
                Sensitivity(name="training_price", low=0.5, high=2, at_low=69_000, at_high=276_000),
                Sensitivity(name="speedup", low=0.98, high=1.4, at_low=None, at_high=121_000),
            ],
            setting=message("setting_measured", batch_size=1, prompt_tokens=64, new_tokens=24, device="cpu",
                            dtype="float32"),
        ),
        drafts=[
            Draft(suite="arithmetic", result=DraftResult(
                prompts=200, identical=200, mismatches=(), new_tokens=6400, num_assistant_tokens=4,
                acceptance_rate=0.61, tokens_per_pass=2.3, draft_cost=0.4, speedup=1.12, expected_speedup=1.18,
                expected_by_cost=(), device="cpu", dtype="float32",
            ))
        ],
        warnings=[message("warn_batch_size", asked=32, used=8)],
        not_measured=[
            message("missing_runtimes"),
            message("missing_peak_memory"),
            message("missing_draft", suites=[{"en": "Stories", "ja": "物語"}]),
            message("missing_screened", layers=8, outcome=message("screen_FAIL"), items=50, floor=0.7, suites=[
                message("screen_kept", suite={"en": "Stories", "ja": "物語"}, share=0.4, interval=ends(None, 0.61)),
                message("screen_undefined", suite={"en": "Arithmetic", "ja": "計算"}),
            ]),
        ],
        recipe="model: demo/counting-16\nseed: 0\ndepths: [16, 14, 12, 10]\nplan:\n  criterion: dnll\n"
        "  strategy: greedy\nheal:\n  lora_r: 16\n  learning_rate: 0.001\n",
        provenance={
            "model": title,
            "model_sha256": "5d1e" + "0" * 60,
            "data": {"stories": "9be1" + "0" * 12, "arithmetic": "77aa" + "0" * 12},
            "seed": 0,
            "versions": {"torch": "2.13.0", "transformers": "5.23.0", "lm-eval": "0.4.13"},
        },
        durations={"analyze": 24.1, "plan": 12.0, "cut-12": 0.8, "heal-12": 148.0, "eval-healed-12": 171.0,
                   "eval-original": 60.0, "gate": 0.6, "draft": 30.0, "cost": 3.0, "export": 1.9},
    )  # fmt: skip


def sample_comparison() -> Comparison:
    """The original and two cuts; the deeper one passes everything."""

    def model(name: str, layers: int, verdict: Verdict) -> Compared:
        suites = [suite for suite in sample_evidence(14, "healed") if suite.name != "text"]
        changes = {"verdict": verdict, "retention": {16: 1.0, 14: 0.98, 12: 0.71}[layers]}
        return Compared(
            name=name, evidence=[suite.model_copy(update=changes) for suite in suites], is_reference=layers == 16,
            pareto=True, depth_score=layers / 40, width_used=0.2,
            footprint=Footprint(10**6 * layers, 2 * 10**6 * layers, 64, layers),
            throughput=Throughput("cpu", 1, "float32", 1, 8, 4, 1600 / layers, 1600 / layers, (0.1,), (0.1,)),
            relative_contribution=[1.0, *(0.3 + 0.02 * layer for layer in range(layers - 1))],
        )  # fmt: skip

    setting = message("setting_measured", batch_size=1, prompt_tokens=8, new_tokens=4, device="cpu", dtype="float32")
    models = [model("demo", 16, "PASS"), model("demo/counting", 14, "PASS"), model("bfloat", 12, "INCONCLUSIVE")]
    return Comparison(models=models, setting=setting)


def sample_frontier(measured: bool = True) -> dict[str, Any]:
    """What `Frontier.describe` gives of a sweep to 10 layers, on two domains where it was measured."""

    def score(value: float) -> dict[str, float | None]:
        ends = (0.8 * value, 1.3 * value) if measured else (None, None)
        return {"value": value, "lo": ends[0], "hi": ends[1]}

    points = []
    for removed in range(7):
        cost = 0.03 * removed**2
        domains = {"stories": score(0.6 * cost), "arithmetic": score(1.4 * cost)} if measured else {}
        points.append({
            "num_layers": LAYERS - removed, "removed": removed, "drop": sorted(ORDER[:removed]),
            "order": ORDER[:removed], "score": score(cost), "by_domain": domains,
        })  # fmt: skip
    return {
        "source": "demo/counting", "num_layers": LAYERS, "criterion": "dnll", "strategy": "greedy",
        "measured": measured, "score": "rise of the NLL, nats per token", "points": points, "evaluations": {},
        "data": {}, "seed": 0,
    }  # fmt: skip
