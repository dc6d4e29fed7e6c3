"""From the units' JSON files to Markdown, between the markers of scripts/README.md (all) or README.md (a summary).

Only what has been measured is shown: a unit without a result is a missing row. Intervals are 95 % bootstrap intervals
over documents; differences are paired, the same documents resampled on both sides.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from study.healing import HEALINGS
from study.units import DEPTHS, GEMMA, LAYERS, PLANNING, PLANS, SEEDS, SMALL

MARKERS = {
    "study": ("<!-- study: begin -->", "<!-- study: end -->"),
    "summary": ("<!-- real: begin -->", "<!-- real: end -->"),
}
RESAMPLES = 2000
HELD_OUT = ("text", "math", "stories")
LABELS = {"text": "WikiText-2", "math": "GSM8K answers", "stories": "TinyStories"}
SMALLEST_SET = 6
"""Layers in the sets whose agreement is shown."""

Results = Mapping[str, Mapping[str, Any]]


EFFECTS = ("skip_effect", "local_effect", "future_effect")
"""Measurements of altered runs."""


def write(folder: Path, readme: Path | None) -> int:
    """Put the tables into the README, or print them."""
    files = sorted((folder / "results").glob("*.json"))
    results = {file.stem: json.loads(file.read_text(encoding="utf8")) for file in files}
    sections = {
        "study": (depth_use, effects, phases, stability, plans, correlations, plan_tasks, tasks, healing, costs),
        "summary": (summary,),
    }
    found = {}
    for name, makers in sections.items():
        parts = ("\n".join(make(results, folder)).strip() for make in makers)
        found[name] = "\n\n".join(part for part in parts if part)
    if readme is None:
        print("\n\n".join(found.values()))
        return 0
    whole = readme.read_text(encoding="utf8")
    name = next((n for n, marks in MARKERS.items() if all(mark in whole for mark in marks)), None)
    if name is None:
        raise SystemExit(f"{readme}: put the lines {' and '.join(MARKERS['study'])} where the tables belong")
    begin, end = MARKERS[name]
    before, rest = whole.split(begin)
    readme.write_text(f"{before}{begin}\n\n{found[name]}\n\n{end}{rest.split(end)[1]}", encoding="utf8")
    return 0


def summary(results: Results, folder: Path) -> Iterator[str]:
    """The one table of README.md: the small model as it is, cut by the default plan, and healed."""
    del folder
    whole = results.get(f"original_{SMALL}")
    if whole is None:
        return
    scores = {unit: found["tasks"] for unit, found in results.items() if _of_tasks(unit) == SMALL}
    names = sorted({task for tasks in scores.values() for task in tasks})
    yield _row(["layers", "", *(f"NLL {LABELS[d]}" for d in HELD_OUT), *names])
    yield _rule(2 + len(HELD_OUT) + len(names))
    first = next(iter(scores.values()), {})
    yield _summary_row(LAYERS[SMALL], "original", whole["documents"], {n: first[n]["original"] for n in first}, names)
    if (trained := results.get(f"heal_{LAYERS[SMALL]}_next3")) is not None:
        state = f"original, trained on the same {trained['tokens'] / 1000:.0f}k tokens"
        yield _summary_row(LAYERS[SMALL], state, trained["healed"], {}, names)
    for depth in DEPTHS[SMALL]:
        healed = results.get(f"heal_{depth}_rate3")
        if healed is None:
            continue
        for state, side in (("cut", "cut"), (f"healed, {healed['tokens'] / 1000:.0f}k tokens", "healed")):
            tasks = scores.get(f"tasks_{depth}_{side}", {})
            yield _summary_row(depth, state, healed[side], {n: t["candidate"] for n, t in tasks.items()}, names)


def _summary_row(
    layers: int, state: str, documents: Mapping[str, Any], tasks: Mapping[str, float], names: Sequence[str]
) -> str:
    cells = [f"{_per_token(documents[d]):.3f}" for d in HELD_OUT]
    return _row([str(layers), state, *cells, *(f"{tasks[n]:.2f}" if n in tasks else "-" for n in names)])


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
        yield _row(["domain", "documents", "relative contribution", "cosine with the stream", "ΔNLL of one layer",
                    "dearest", "cheapest", "lens KL before each third", "participation ratio"])  # fmt: skip
        yield _rule(9)
        for domain, about in found["data"].items():
            of = {key: arrays[f"by_domain/{domain}/{key}"] for key in (
                "relative_contribution/layer", "contribution_cosine/layer", "output_effect/dnll", "lens/kl",
                "width/participation_ratio")}  # fmt: skip
            dnll = of["output_effect/dnll"]
            order = np.argsort(dnll)
            yield _row([
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
            rows.append(_row([name, domain, str(about["documents"]), *cells]))
    if rows:
        yield "Mean relative change of what later layers write when a layer is left out, by thirds of the layers left"
        yield "out (Csordás et al. 2025, figures 4 and 5)."
        yield ""
        yield _row(["model", "domain", "documents", "all run again", "what each sees of it alone", "left out before, "
                    "measured at later tokens", "all run again, the next layer only"])  # fmt: skip
        yield from (_rule(7), *rows)


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
            rows.append(_row([name, indicator.replace("_", " "), place, share]))
    if rows:
        yield from (_row(["model", "indicator", "phase change", "of the resamples"]), _rule(4), *rows)


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
                    rows.append(_row([name, domain, str(count), f"{ranks:.2f}", f"{shared:.1f} of {SMALLEST_SET}"]))
    if rows:
        yield _row(["model", "domain", "documents", "rank correlation of two such sets", "cheapest layers in common"])
        yield from (_rule(5), *rows)


def plans(results: Results, folder: Path) -> Iterator[str]:
    """Held-out NLL of every plan, best mean first within a depth."""
    del folder
    for name in (SMALL, GEMMA):
        found, made = results.get(f"held_out_{name}"), results.get(f"plans_{name}")
        if found is None or made is None:
            continue
        clean = found["original"]
        yield f"**{name}**, held-out NLL per token; below each depth's best, the rise over it in the mean."
        yield ""
        yield _row(["layers", "plan", "removed", *HELD_OUT, "mean", "over the best"])
        yield _rule(5 + len(HELD_OUT))
        yield _row([str(LAYERS[name]), "original", "-", *(f"{clean[d]:.3f}" for d in HELD_OUT), _mean(clean), "-"])
        for depth in DEPTHS[name]:
            rows = []
            for label, drop, rise in _plans_at(found, made, depth):
                values = {d: clean[d] + rise[d] for d in HELD_OUT}
                rows.append((statistics.mean(values.values()), label, drop, values))
            best = min(row[0] for row in rows)
            for mean, label, drop, values in sorted(rows, key=lambda row: row[0]):
                cells = [*(f"{values[d]:.3f}" for d in HELD_OUT), f"{mean:.3f}", f"{mean - best:+.3f}"]
                yield _row([str(depth), label, drop, *cells])
        yield ""


def _plans_at(
    found: Mapping[str, Any], made: Mapping[str, Any], depth: int
) -> Iterator[tuple[str, str, dict[str, float]]]:
    """Label, removed layers and rise per token of each plan of a depth; random plans as their mean."""
    draws: list[dict[str, float]] = []
    for key, sums in found["dnll"].items():
        label, _, own = key.rpartition("/")
        if int(own) != depth:
            continue
        rise = {d: sum(sums[d]) / sum(found["tokens"][d]) for d in HELD_OUT}
        if label.startswith("random"):
            draws.append(rise)
        else:
            yield label, ", ".join(map(str, made["plans"][key]["drop"])), rise
    if draws:
        yield f"random (mean of {len(draws)})", "-", {d: statistics.mean(draw[d] for draw in draws) for d in HELD_OUT}


def correlations(results: Results, folder: Path) -> Iterator[str]:
    """Which criterion predicts which task: Spearman's ρ over the plans of one depth, mean over depths."""
    del folder
    for name in (SMALL, GEMMA):
        found, made = results.get(f"held_out_{name}"), results.get(f"plans_{name}")
        if found is None or made is None:
            continue
        yield f"**{name}**: rank correlation over the {len(PLANS) + len(SEEDS)} plans of a depth, mean of the depths."
        yield ""
        yield _row(["criterion (sum over the removed layers)", *HELD_OUT])
        yield _rule(1 + len(HELD_OUT))
        for label, costs in _predicted(made).items():
            cells = []
            for domain in HELD_OUT:
                values = []
                for depth in DEPTHS[name]:
                    keys = [key for key in found["dnll"] if key.endswith(f"/{depth}")]
                    rises = [sum(found["dnll"][key][domain]) for key in keys]
                    values.append(spearmanr([costs[key] for key in keys], rises).statistic)
                cells.append(f"{statistics.mean(values):+.2f}")
            yield _row([label, *cells])
        yield ""


def plan_tasks(results: Results, folder: Path) -> Iterator[str]:
    """Accuracy of every plan, and which criterion predicts it."""
    del folder
    for name in (SMALL, GEMMA):
        judged = {depth: results.get(f"plan_tasks_{depth}_{name}") for depth in DEPTHS[name]}
        found = {depth: own["tasks"] for depth, own in judged.items() if own is not None}
        if not found:
            continue
        names = sorted(next(iter(next(iter(found.values())).values())))
        first = next(iter(next(iter(found.values())).values()))
        items = first[names[0]]["n"]
        yield f"**{name}**, accuracy of every plan, {items} items a task; *: unlike the original (paired test, 5 %)."
        yield ""
        yield _row(["layers", "plan", *names, "mean"])
        yield _rule(3 + len(names))
        whole = [first[task]["original"] for task in names]
        yield _row([str(LAYERS[name]), "original", *(f"{value:.2f}" for value in whole), f"{np.mean(whole):.3f}"])
        for depth, plans in found.items():
            for key, own in sorted(plans.items(), key=lambda item: -_accuracy(item[1], names)):
                cells = [f"{own[t]['candidate']:.2f}{'*' if own[t]['p'] < 0.05 else ''}" for t in names]
                yield _row([str(depth), key.rpartition("/")[0], *cells, f"{_accuracy(own, names):.3f}"])
        yield ""
        depths = " and ".join(map(str, found))
        over = f"at {depths} layers" + (", mean of the depths" if len(found) > 1 else "")
        yield f"**{name}**: rank correlation of a criterion's cost with the accuracy lost, {over}."
        yield ""
        yield _row(["criterion (sum over the removed layers)", *names, "mean of the tasks"])
        yield _rule(2 + len(names))
        for label, costs in _predicted(results[f"plans_{name}"]).items():
            cells = []
            for pick in (*([task] for task in names), names):
                lost = {depth: [-_accuracy(own, pick) for own in plans.values()] for depth, plans in found.items()}
                ranks = [spearmanr([costs[key] for key in found[d]], lost[d]).statistic for d in found]
                cells.append(f"{statistics.mean(ranks):+.2f}")
            yield _row([label, *cells])
        yield ""


def _accuracy(tasks: Mapping[str, Any], names: Sequence[str]) -> float:
    return statistics.mean(tasks[name]["candidate"] for name in names)


def _predicted(made: Mapping[str, Any]) -> dict[str, Mapping[str, float]]:
    """Criterion -> plan -> what it says that the plan costs."""
    measured = {key: plan["dnll"]["total"]["value"] for key, plan in made["plans"].items()}
    return {
        "ΔNLL of the plan, calibration": measured,
        **{label: made["predicted"][label] for label, *_ in PLANS[1:] if label in made["predicted"]},
    }


def tasks(results: Results, folder: Path) -> Iterator[str]:
    """Accuracy of cuts on tasks, and what is retained above chance."""
    del folder
    rows = []
    for unit, found in results.items():
        if model := _of_tasks(unit):
            _, depth, state = unit.split("_")
            for task, suite in found["tasks"].items():
                lo, hi = suite["retention_lo"], suite["retention_hi"]
                kept = "not defined" if suite["retention"] is None else f"{suite['retention']:.2f} [{lo:.2f}, {hi:.2f}]"
                rows.append((model, task, -int(depth), state, suite, kept))
    if rows:
        yield _row(["model", "task", "layers", "state", "items", "original", "candidate", "retention above chance"])
        yield _rule(8)
        for model, task, depth, state, suite, kept in sorted(rows, key=lambda row: row[:4]):
            scores = (f"{suite[side]:.3f}" for side in ("original", "candidate"))
            yield _row([model, task, str(-depth), state, str(suite["n"]), *scores, kept])


def _of_tasks(unit: str) -> str | None:
    """The model of a unit that measures tasks; None for any other."""
    depth = int(unit.split("_")[1]) if unit.startswith("tasks_") else None
    return next((name for name, depths in DEPTHS.items() if depth in depths), None)


def healing(results: Results, folder: Path) -> Iterator[str]:
    """What healing brings back, by recipe: NLL per token, and the share of the cut's loss that is gone again."""
    del folder
    for name in (SMALL, GEMMA):
        whole = results.get(f"original_{name}")
        runs = {
            depth: [f for unit, f in results.items() if unit.startswith(f"heal_{depth}_")]
            for depth in (LAYERS[name], *DEPTHS[name])
        }
        if whole is None or not any(runs.values()):
            continue
        yield from (f"**{name}**", "")
        columns = ["layers", "recipe", "tokens", "seed", "trained", *HELD_OUT]
        yield _row([*columns, "of the text lost, back", "of the mathematics", "CPU seconds", "peak memory"])
        yield _rule(9 + len(HELD_OUT))
        clean = {d: _per_token(whole["documents"][d]) for d in HELD_OUT}
        yield _row([str(LAYERS[name]), "original", "-", "-", "-", *(f"{clean[d]:.3f}" for d in HELD_OUT), *"----"])
        for depth, own in runs.items():
            yield from _healed(depth, own, whole["documents"], cut=depth < LAYERS[name])
        yield ""


def _healed(depth: int, runs: Sequence[Mapping[str, Any]], whole: Mapping[str, Any], *, cut: bool) -> Iterator[str]:
    """The rows of one depth: the cut, then every recipe, those of equal tokens from the best on."""
    if runs and cut:
        before = {d: _per_token(runs[0]["cut"][d]) for d in HELD_OUT}
        yield _row([str(depth), "cut", "-", "-", "-", *(f"{before[d]:.3f}" for d in HELD_OUT), *"----"])
    for found in sorted(runs, key=lambda run: (round(run["tokens"], -4), _per_token(run["healed"]["text"]))):
        yield _row([
            str(depth),
            _recipe(found["changes"]),
            f"{found['tokens']:,}",
            str(found["settings"]["seed"]),
            f"{found['trained_parameters'] / 1e6:.1f}M",
            *(f"{_per_token(found['healed'][d]):.3f}" for d in HELD_OUT),
            *(_back(found, whole, d) if cut else "-" for d in ("text", "math")),
            f"{found['cpu_seconds']:.0f}",
            f"{found['peak_mb']:.0f} MB",
        ])  # fmt: skip


def _recipe(changes: Mapping[str, Any]) -> str:
    if "phases" in changes:
        return str(changes["phases"])
    return next((label for label, (_, _, own) in HEALINGS.items() if own == dict(changes)), str(dict(changes)))


def _back(found: Mapping[str, Any], whole: Mapping[str, Any], domain: str) -> str:
    """(cut - healed) / (cut - original) of one domain, with its paired interval."""
    cut, healed, clean = (np.array(side[domain]["nll"]) for side in (found["cut"], found["healed"], whole))
    draws = np.random.default_rng(0).integers(len(cut), size=(RESAMPLES, len(cut)))  # [resamples, documents]
    shares = (cut - healed)[draws].sum(1) / (cut - clean)[draws].sum(1)
    low, high = np.quantile(shares, (0.025, 0.975))
    return f"{100 * (cut - healed).sum() / (cut - clean).sum():.0f} % [{100 * low:.0f}, {100 * high:.0f}]"


def costs(results: Results, folder: Path) -> Iterator[str]:
    """What every unit took."""
    del folder
    yield _row(["step", "CPU seconds", "of them system", "peak memory"])
    yield _rule(4)
    for unit, found in sorted(results.items(), key=lambda item: item[0]):
        seconds = f"{found['cpu_seconds']:.0f}", f"{found['system_seconds']:.0f}"
        yield _row([f"`{unit}`", *seconds, f"{found['peak_mb']:.0f} MB"])


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


def _per_token(documents: Mapping[str, Sequence[float]]) -> float:
    return sum(documents["nll"]) / sum(documents["tokens"])


def _of_thirds(values: np.ndarray, thirds: Sequence[np.ndarray]) -> str:
    return " / ".join(f"{values[part].mean():.2f}" for part in thirds)


def _mean(values: Mapping[str, float]) -> str:
    return f"{statistics.mean(values[d] for d in HELD_OUT):.3f}"


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _rule(count: int) -> str:
    return _row(["---"] * count)
