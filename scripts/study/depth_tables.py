"""The study's tables of depth: where the work lies, who reads a layer, phase changes, how many documents it takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from study.markdown import Results, row, rule
from study.settings import GEMMA, LAYERS, PLANNING, SMALL

SMALLEST_SET = 6
"""Layers in the sets whose agreement is shown."""

EFFECTS = ("skip_effect", "local_effect", "future_effect")
"""Measurements of altered runs."""
GONE = (0.5, 0.9)
"""Shares of an erasure's effect of which it is said by where they are gone."""
SCORES = {
    "output_effect/l2_mean": "change of the predictions",
    "output_effect/kl": "KL of the predictions",
    "relative_contribution/layer": "what is written, over the stream",
}
"""Effects that weigh layers in a depth score."""


def depth_use(results: Results, folder: Path) -> Iterator[str]:
    """Per domain, where the work lies: thirds of the depth, and the layers that cost most and least."""
    for name in (SMALL, GEMMA):
        if (found := results.get(f"depth_{name}")) is None:
            continue
        arrays = _arrays(folder / found["analysis"])
        thirds = np.array_split(np.arange(LAYERS[name]), 3)
        spans = [f"{part[0]}-{part[-1]}" for part in thirds]
        yield f"**{name}**: mean of each third of the layers (" + ", ".join(spans) + ")."
        yield ""
        yield row(["domain", "documents", "relative contribution", "cosine with the stream", "ΔNLL of one layer",
                    "dearest", "cheapest", "lens KL before each third",
                    "participation ratio before each third"])  # fmt: skip
        yield rule(9)
        for domain, about in found["data"].items():
            of = {key: arrays[f"by_domain/{domain}/{key}"] for key in (
                "relative_contribution/layer", "contribution_cosine/layer", "output_effect/dnll", "lens/kl",
                "width/participation_ratio")}  # fmt: skip
            dnll = of["output_effect/dnll"]
            order = np.argsort(dnll)
            yield row([
                domain,
                str(about["documents"]),
                _of_thirds(of["relative_contribution/layer"], thirds),
                _of_thirds(of["contribution_cosine/layer"], thirds),
                _of_thirds(dnll, thirds),
                ", ".join(f"{layer} ({dnll[layer]:.2f})" for layer in order[::-1][:3]),
                ", ".join(f"{layer} ({dnll[layer]:.2f})" for layer in order[:3]),
                " / ".join(f"{of['lens/kl'][part[0]]:.1f}" for part in thirds),
                " / ".join(f"{of['width/participation_ratio'][part[0]]:.1f}" for part in thirds),
            ])  # fmt: skip
        yield ""


def effects(results: Results, folder: Path) -> Iterator[str]:
    """What leaving a layer out changes in what later layers write, by thirds of the layers that are left out."""
    rows = []
    for name in (SMALL, GEMMA):
        if (found := results.get(f"effects_{name}")) is None:
            continue
        arrays = _arrays(folder / found["analysis"])
        depth, thirds = LAYERS[name], np.array_split(np.arange(LAYERS[name] - 1), 3)  # no layer is after the last
        for domain, about in found["data"].items():
            of = {kind: arrays[f"by_domain/{domain}/{kind}/layer/mean"] for kind in EFFECTS}  # each [L, L]
            after = {kind: np.array([each[s, s + 1 :].mean() for s in range(depth - 1)]) for kind, each in of.items()}
            beside = np.array([of["skip_effect"][s, s + 1] for s in range(depth - 1)])
            cells = [_of_thirds(values, thirds) for values in (*after.values(), beside)]
            rows.append(row([name, domain, str(about["documents"]), *cells]))
    if rows:
        yield "Mean relative change of what later layers write when a layer is left out, by thirds of the layers left"
        yield "out (Csordás et al. 2025, figures 4 and 5)."
        yield ""
        yield row(["model", "domain", "documents", "all run again", "what each sees of it alone", "left out before, "
                    "measured at later tokens", "all run again, the next layer only"])  # fmt: skip
        yield from (rule(7), *rows)


def questions(results: Results, folder: Path) -> Iterator[str]:
    """Down to which depth a worked answer still reads its question."""
    del folder
    rows = []
    for name in (SMALL, GEMMA):
        if (found := results.get(f"questions_{name}")) is None:
            continue
        first, *others = np.array_split(np.arange(LAYERS[name]), 3)
        thirds = [first[1:], *others]  # a mean of embeddings is no stream that a model knows: layer 0 says nothing
        erased = np.array(found["erasure/kl"])  # [L, 8]
        shares = np.array(found["integrated_gradients/share"])  # [L, 8]
        mean = erased.mean(1)  # [L]
        cells = [_of_thirds(values, thirds) for values in (mean, erased[:, 0], erased[:, -1], shares[:, -1])]
        gone = " / ".join(str(1 + _gone(mean[1:], share)) for share in GONE)
        rows.append(row([name, str(found["data"]["math"]["documents"]), *cells[:3], gone, cells[3]]))
    if rows:
        yield "An eighth of a question's stream is erased before a layer: divergence of the predictions of its worked"
        yield "answer, nats a token, by thirds of the layers but layer 0; and the share of the question's integrated"
        yield "gradients that its last eighth holds (Csordás et al. 2025, section 5)."
        yield ""
        yield row(["model", "documents", "mean of the eighths", "first eighth", "last eighth",
                    "half / nine tenths of the effect gone from layer", "gradients: last eighth"])  # fmt: skip
        yield from (rule(7), *rows)


def _gone(effect: np.ndarray, share: float) -> int:
    """From which on no effect is above what is left of the greatest: an index, or their number."""
    return int(np.flatnonzero(effect > (1 - share) * effect.max())[-1]) + 1


def difficulty(results: Results, folder: Path) -> Iterator[str]:
    """Whether harder problems use more depth."""
    del folder
    rows = []
    for name in (SMALL, GEMMA):
        for key, own in results.get(f"difficulty_{name}", {}).get("difficulty", {}).items():
            levels = " / ".join(f"{score:.1f}" for score in own["levels"].values())
            shift = rank = "-"
            if "shift" in own:  # absent where there are too few problems
                shift = f"{own['shift']:+.2f} [{own['shift_lo']:+.2f}, {own['shift_hi']:+.2f}]"
                rank = f"{own['spearman']:+.2f}"
            rows.append(row([name, SCORES[key], str(own["documents"]), levels, shift, rank, own["verdict"]]))
    if rows:
        yield "Depth score (mean layer, weighted by its effect) of MATH-500's problems with their solutions, by level."
        yield ""
        yield row(["model", "effect", "problems", "levels 1 to 5", "shift, easiest to hardest", "rank correlation", ""])
        yield from (rule(7), *rows)


def phases(results: Results, folder: Path) -> Iterator[str]:
    """Phase changes, as the analysis finds them over all domains."""
    del folder
    rows = []
    for name in (SMALL, GEMMA):
        for indicator, found in results.get(f"depth_{name}", {}).get("phase_changes", {}).items():
            if indicator == "agreement":
                continue
            place, share = "none", "-"
            if found and found.get("layer") is not None:
                place = f"layer {found['layer']} [{found['lo']:g}, {found['hi']:g}]"
                share = f"{100 * found['found_share']:.0f} %"
            rows.append(row([name, indicator.replace("_", " "), place, share]))
    if rows:
        yield from (row(["model", "indicator", "phase change", "of the resamples"]), rule(4), *rows)


def stability(results: Results, folder: Path) -> Iterator[str]:
    """How far two disjoint sets of n documents agree on what single layers cost."""
    del folder
    rows = []
    for name in (SMALL, GEMMA):
        if (found := results.get(f"singles_{name}")) is None:
            continue
        for domain in PLANNING:
            sums, tokens = np.array(found["dnll"][domain]), np.array(found["tokens"][domain])  # [L, documents]
            for count in (2, 4, 8, 12):
                if 2 * count <= len(tokens):
                    ranks, shared = _halves(sums, tokens, count)
                    rows.append(row([name, domain, str(count), f"{ranks:.2f}", f"{shared:.1f} of {SMALLEST_SET}"]))
    if rows:
        yield row(["model", "domain", "documents", "rank correlation of two such sets", "cheapest layers in common"])
        yield from (rule(5), *rows)


def _arrays(directory: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(directory / "measurements.safetensors")


def _halves(sums: np.ndarray, tokens: np.ndarray, count: int) -> tuple[float, float]:
    """Mean rank correlation and mean overlap of the cheapest layers over pairs of disjoint sets of documents."""
    random, ranks, shared = np.random.default_rng(0), [], []
    for _ in range(200):
        order = random.permutation(len(tokens))
        first, second = (
            sums[:, part].sum(1) / tokens[part].sum() for part in (order[:count], order[count : 2 * count])
        )
        ranks.append(spearmanr(first, second).statistic)
        shared.append(len({*np.argsort(first)[:SMALLEST_SET]} & {*np.argsort(second)[:SMALLEST_SET]}))
    return float(np.mean(ranks)), float(np.mean(shared))


def _of_thirds(values: np.ndarray, thirds: Sequence[np.ndarray]) -> str:
    return " / ".join(f"{values[part].mean():.2f}" for part in thirds)
