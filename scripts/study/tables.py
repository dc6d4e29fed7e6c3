"""From the units' JSON files to Markdown, between the markers of scripts/README.md (all) or README.md (a summary).

Only what has been measured is shown: a unit without a result is a missing row. Intervals are 95 % bootstrap intervals
over documents; differences are paired, the same documents resampled on both sides.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from study.depth_tables import depth_use, difficulty, effects, phases, questions, stability
from study.healing import HEALINGS
from study.markdown import Results, row, rule
from study.settings import CANDIDATES, DEPTHS, GEMMA, LAYERS, PLANS, SEARCHED, SEEDS, SMALL

MARKERS = {
    "study": ("<!-- study: begin -->", "<!-- study: end -->"),
    "summary": ("<!-- real: begin -->", "<!-- real: end -->"),
}
RESAMPLES = 2000
HELD_OUT = ("text", "math", "stories")
LABELS = {"text": "WikiText-2", "math": "GSM8K answers", "stories": "TinyStories"}


def write(folder: Path, readme: Path | None) -> int:
    """Put the tables into the README, or print them."""
    files = sorted((folder / "results").glob("*.json"))
    results = {file.stem: json.loads(file.read_text(encoding="utf8")) for file in files}
    sections = {
        "study": (
            depth_use,
            effects,
            questions,
            difficulty,
            phases,
            stability,
            plans,
            searches,
            correlations,
            plan_tasks,
            tasks,
            healing,
            costs,
        ),
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
    yield row(["layers", "", *(f"NLL {LABELS[d]}" for d in HELD_OUT), *names])
    yield rule(2 + len(HELD_OUT) + len(names))
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
    return row([str(layers), state, *cells, *(f"{tasks[n]:.2f}" if n in tasks else "-" for n in names)])


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
        yield row(["layers", "plan", "removed", *HELD_OUT, "mean", "over the best"])
        yield rule(5 + len(HELD_OUT))
        yield row([str(LAYERS[name]), "original", "-", *(f"{clean[d]:.3f}" for d in HELD_OUT), _mean(clean), "-"])
        for depth in DEPTHS[name]:
            rows = []
            for label, drop, rise in _plans_at(found, made, depth):
                values = {d: clean[d] + rise[d] for d in HELD_OUT}
                rows.append((statistics.mean(values.values()), label, drop, values))
            best = min(row[0] for row in rows)
            for mean, label, drop, values in sorted(rows, key=lambda row: row[0]):
                cells = [*(f"{values[d]:.3f}" for d in HELD_OUT), f"{mean:.3f}", f"{mean - best:+.3f}"]
                yield row([str(depth), label, drop, *cells])
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


def searches(results: Results, folder: Path) -> Iterator[str]:
    """What other searches find among the same layers by the same documents, and what it takes them."""
    del folder
    for unit, found in results.items():
        if not unit.startswith("searches_"):
            continue
        _, depth, name = unit.split("_", 2)
        whole = found["plans"]["greedy in full"]["work"]["layer_evaluations"]
        yield f"**{name}**, {depth} layers: searches among the {CANDIDATES[name]} layers that are cheapest alone, by"
        yield f"{SEARCHED[name]} documents a domain; layer evaluations over those of greedy in full."
        yield ""
        domains = sorted(next(iter(found["plans"].values()))["calibration"])
        yield row(["search", "removed", "layer evaluations", *(f"ΔNLL {d}, its documents" for d in domains),
                    *(f"{d}, held out" for d in HELD_OUT), "mean"])  # fmt: skip
        yield rule(4 + len(domains) + len(HELD_OUT))
        rows = []
        for label, own in found["plans"].items():
            nll = {d: found["original"][d] + own["held_out"][d] for d in HELD_OUT}
            work = own["work"]["layer_evaluations"] / whole
            cells = [*(f"{own['calibration'][d]:.3f}" for d in domains), *(f"{nll[d]:.3f}" for d in HELD_OUT)]
            mean = statistics.mean(nll.values())
            rows.append((mean, row([label, ", ".join(map(str, own["drop"])), f"{work:.2f}", *cells, f"{mean:.3f}"])))
        yield from (text for _, text in sorted(rows))
        yield ""


def correlations(results: Results, folder: Path) -> Iterator[str]:
    """Which criterion predicts which task: Spearman's ρ over the plans of one depth, mean over depths."""
    del folder
    for name in (SMALL, GEMMA):
        found, made = results.get(f"held_out_{name}"), results.get(f"plans_{name}")
        if found is None or made is None:
            continue
        yield f"**{name}**: rank correlation over the {len(PLANS) + len(SEEDS)} plans of a depth, mean of the depths."
        yield ""
        yield row(["criterion (sum over the removed layers)", *HELD_OUT])
        yield rule(1 + len(HELD_OUT))
        for label, costs in _predicted(made).items():
            cells = []
            for domain in HELD_OUT:
                values = []
                for depth in DEPTHS[name]:
                    keys = [key for key in found["dnll"] if key.endswith(f"/{depth}")]
                    rises = [sum(found["dnll"][key][domain]) for key in keys]
                    values.append(spearmanr([costs[key] for key in keys], rises).statistic)
                cells.append(f"{statistics.mean(values):+.2f}")
            yield row([label, *cells])
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
        yield row(["layers", "plan", *names, "mean"])
        yield rule(3 + len(names))
        whole = [first[task]["original"] for task in names]
        yield row([str(LAYERS[name]), "original", *(f"{value:.2f}" for value in whole), f"{np.mean(whole):.3f}"])
        for depth, plans in found.items():
            for key, own in sorted(plans.items(), key=lambda item: -_accuracy(item[1], names)):
                cells = [f"{own[t]['candidate']:.2f}{'*' if own[t]['p'] < 0.05 else ''}" for t in names]
                yield row([str(depth), key.rpartition("/")[0], *cells, f"{_accuracy(own, names):.3f}"])
        yield ""
        depths = " and ".join(map(str, found))
        over = f"at {depths} layers" + (", mean of the depths" if len(found) > 1 else "")
        yield f"**{name}**: rank correlation of a criterion's cost with the accuracy lost, {over}."
        yield ""
        yield row(["criterion (sum over the removed layers)", *names, "mean of the tasks"])
        yield rule(2 + len(names))
        for label, costs in _predicted(results[f"plans_{name}"]).items():
            cells = []
            for pick in (*([task] for task in names), names):
                lost = {depth: [-_accuracy(own, pick) for own in plans.values()] for depth, plans in found.items()}
                ranks = [spearmanr([costs[key] for key in found[d]], lost[d]).statistic for d in found]
                cells.append(f"{statistics.mean(ranks):+.2f}")
            yield row([label, *cells])
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
        yield row(["model", "task", "layers", "state", "items", "original", "candidate", "retention above chance"])
        yield rule(8)
        for model, task, depth, state, suite, kept in sorted(rows, key=lambda row: row[:4]):
            scores = (f"{suite[side]:.3f}" for side in ("original", "candidate"))
            yield row([model, task, str(-depth), state, str(suite["n"]), *scores, kept])


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
        yield row([*columns, "of the text lost, back", "of the mathematics", "CPU seconds", "peak memory"])
        yield rule(9 + len(HELD_OUT))
        clean = {d: _per_token(whole["documents"][d]) for d in HELD_OUT}
        yield row([str(LAYERS[name]), "original", "-", "-", "-", *(f"{clean[d]:.3f}" for d in HELD_OUT), *"----"])
        for depth, own in runs.items():
            yield from _healed(depth, own, whole["documents"], cut=depth < LAYERS[name])
        yield ""


def _healed(depth: int, runs: Sequence[Mapping[str, Any]], whole: Mapping[str, Any], *, cut: bool) -> Iterator[str]:
    """The rows of one depth: the cut, then every recipe, those of equal tokens from the best on."""
    if runs and cut:
        before = {d: _per_token(runs[0]["cut"][d]) for d in HELD_OUT}
        yield row([str(depth), "cut", "-", "-", "-", *(f"{before[d]:.3f}" for d in HELD_OUT), *"----"])
    for found in sorted(runs, key=lambda run: (round(run["tokens"], -4), _per_token(run["healed"]["text"]))):
        yield row([
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
    yield row(["step", "CPU seconds", "of them system", "peak memory"])
    yield rule(4)
    for unit, found in sorted(results.items(), key=lambda item: item[0]):
        seconds = f"{found['cpu_seconds']:.0f}", f"{found['system_seconds']:.0f}"
        yield row([f"`{unit}`", *seconds, f"{found['peak_mb']:.0f} MB"])


def _per_token(documents: Mapping[str, Sequence[float]]) -> float:
    return sum(documents["nll"]) / sum(documents["tokens"])


def _mean(values: Mapping[str, float]) -> str:
    return f"{statistics.mean(values[d] for d in HELD_OUT):.3f}"
