#!/usr/bin/env python3
"""Do other runtimes give a cut model's tokens? Every installed runtime on every model and cut, against transformers.

    scripts/runtime vllm llama.cpp mlx ctranslate2 openvino onnxruntime transformers-4.57 transformers-4.51
    .venv/bin/python scripts/runtime_matrix.py -o runs/runtimes             # an hour; resumable
    .venv/bin/python scripts/runtime_matrix.py -o runs/runtimes --table     # into prune/packaging/README.md

Five prompts of token ids (never text: which tokens it becomes is the tokenizer's affair), 32 greedy tokens each, in
float32; and the log-likelihood of 32 more tokens of the prompt. Each cut is served as `prune cut` wrote it ('as cut')
and with its config in both dialects of transformers ('both'), as `prune export` writes it. What `prune.serving` says of
the config before anything runs stands beside what was seen; a disagreement is an error of ours, and ends the script
with exit code 1. The products of nf4 models are in bfloat16: where two tokens are that close, either is right, 'a tie'.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))
from runtime_models import MODELS, add_real_models, cases, prepare, served_by

from evals.runtimes import installed
from evals.worker import RUNTIMES, Worker
from prune.checkpoint.directory import CONFIG, read_json
from prune.files import write_json
from prune.serving.readers import Reading, readings

if TYPE_CHECKING:
    import torch

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "prune" / "packaging" / "README.md"
BEGIN, END = "<!-- runtime matrix: begin -->", "<!-- runtime matrix: end -->"
PROMPTS, PROMPT_TOKENS, NEW_TOKENS = 5, 16, 32
NAMES = {"transformers-4.57": ("transformers4", "4.57.6"), "transformers-4.51": ("transformers4", "4.51.3")}
"""Environment -> name and version in `prune.serving.runtimes`; the others have one version."""
TOLERANCE = 5e-3
"""Relative difference of log-likelihoods that rounding explains: llama.cpp takes GELU from a half-precision table."""


BFLOAT16 = 2.0**-8
"""Relative rounding of the products of an nf4 model, float32 or not: by this two likeliest tokens may change places."""


def prompts_for(vocabulary: int) -> torch.Tensor:
    """[PROMPTS, PROMPT_TOKENS + NEW_TOKENS] token ids, the same for every runtime; without special tokens."""
    import torch

    generator = torch.Generator().manual_seed(0)
    return torch.randint(20, min(vocabulary, 40_000) - 1, (PROMPTS, PROMPT_TOKENS + NEW_TOKENS), generator=generator)


def expected_of(directory: Path) -> dict[str, Any]:
    """What transformers of this project answers."""
    import torch

    from prune.model.loading import load_model

    model = load_model(str(directory), dtype="float32").eval()
    ids = prompts_for(model.config.get_text_config().vocab_size)
    tokens, scores = [], []
    with torch.inference_mode():
        for row in ids:
            batch = row[None, :PROMPT_TOKENS]  # [1, T]
            out = model.generate(
                batch, attention_mask=torch.ones_like(batch), max_new_tokens=NEW_TOKENS, do_sample=False,
                eos_token_id=None, pad_token_id=0,
            )  # fmt: skip
            tokens.append(out[0, PROMPT_TOKENS:].tolist())
            logprobs = model(row[None]).logits[0].log_softmax(-1)[PROMPT_TOKENS - 1 : -1]  # [NEW_TOKENS, V]
            scores.append(float(logprobs.gather(-1, row[PROMPT_TOKENS:, None]).sum()))
    ends = model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    return {"prompts": ids.tolist(), "tokens": tokens, "scores": scores, "ends": ends}


def ask(runtime: str, model: Path, expected: dict[str, Any]) -> dict[str, Any]:
    """How many prompts came out the same, and the largest relative difference of log-likelihoods."""
    prompts = expected["prompts"]
    options = {"max_model_len": 256, "dtype": "float32", "vocabulary": 300_000}
    with Worker(runtime, model, options) as worker:
        found = worker.generate([p[:PROMPT_TOKENS] for p in prompts], NEW_TOKENS)
        rows = worker.score([(p[:PROMPT_TOKENS], p[PROMPT_TOKENS:]) for p in prompts])
    same, ties = 0, 0
    for prompt, ours, wanted in zip(prompts, found, expected["tokens"], strict=True):
        if same_tokens(ours, wanted, expected["ends"]):
            same += 1
        elif "quantization_config" in read_json(model / CONFIG) and tied(model, prompt[:PROMPT_TOKENS], ours, wanted):
            ties += 1
    off = max(abs(a - b) / abs(b) for (a, _), b in zip(rows, expected["scores"], strict=True))
    return {"same": same, "ties": ties, "of": len(prompts), "off": off, "version": worker.version}


def same_tokens(found: list[int], wanted: list[int], ends: list[int]) -> bool:
    """Equal as far as the runtime went: some stop before the end of text or with it, and transformers goes beyond."""
    stopped = [*found[-1:], *wanted[len(found) : len(found) + 1]]
    return found == wanted[: len(found)] and (len(found) == len(wanted) or any(token in ends for token in stopped))


def tied(model: Path, prompt: list[int], found: list[int], wanted: list[int]) -> bool:
    """Whether the first token that differs is as likely as the wanted one, to the rounding of bfloat16."""
    import torch

    from prune.model.loading import load_model

    at = next((i for i, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b), None)
    if at is None:
        return False
    with torch.inference_mode():
        logits = load_model(str(model), dtype="float32")(torch.tensor([prompt + wanted[:at]])).logits[0, -1]  # [V]
    gap = float(logits[wanted[at]] - logits[found[at]])
    return gap <= BFLOAT16 * float(logits[wanted[at]].abs())


def run(place: Path, runtimes: Sequence[str]) -> None:
    """Every case in every one of these runtimes that is installed; results already there are kept."""
    for case in cases():
        for runtime in runtimes:
            result = place / "results" / f"{case} {runtime}.json".replace(" ", "_")
            if not installed(runtime) or result.is_file():
                continue
            directory = prepare(case, place)
            answers = place / "expected" / f"{directory.name}.json"
            if not answers.is_file():
                write_json(answers, expected_of(directory))
            try:
                seen = ask(runtime, served_by(runtime, case, place), read_json(answers))
            except Exception as error:  # whatever a runtime refuses, the others go on
                seen = {"error": " ".join(str(error).split())[:300]}
            row = {"model": case.row, "drop": case.drop, "dialect": case.dialect, "runtime": runtime, **seen}
            write_json(result, row)
            said = reading_of(runtime, directory)
            print(f"{case} {runtime}: {verdict(row)}; said {said.status} {said.reason}", flush=True)


def reading_of(runtime: str, directory: Path) -> Reading:
    """What `prune.serving` says of a checkpoint, before anything runs."""
    name, version = NAMES.get(runtime, (runtime, None))
    return next(r for r in readings(read_json(directory / CONFIG), [name]) if version in (None, r.version))


def results(place: Path) -> list[dict[str, Any]]:
    """The rows there, in the order of the cases, with what is said of each now."""
    rows = []
    for case in cases():
        for runtime in RUNTIMES:
            result = place / "results" / f"{case} {runtime}.json".replace(" ", "_")
            if result.is_file():
                said = reading_of(runtime, prepare(case, place))
                rows.append(read_json(result) | {"said": said.status, "reason": said.reason})
    return rows


def verdict(row: dict[str, Any]) -> str:
    """One cell."""
    if "error" in row:
        return "refused"
    tie = f", {row['ties']} more but for a tie" if row.get("ties") else ""
    return f"{row['same']}/{row['of']}{tie}" + ("" if row["off"] <= TOLERANCE else f", off by {row['off']:.1%}")


def seen_right(row: dict[str, Any]) -> bool:
    """Whether a runtime read the model as transformers does."""
    return "error" not in row and row["same"] + row.get("ties", 0) == row["of"] and row["off"] <= TOLERANCE


def disagreements(rows: list[dict[str, Any]]) -> list[str]:
    """Where what was said of a config beforehand is not what was seen: right, wrong or refused, each by name."""
    wrong = []
    for row in rows:
        noted = row["said"] == "right" and row["reason"]  # differs beyond what is said there, with the original, too
        seen = "refused" if "error" in row else "right" if seen_right(row) else "wrong"
        if row["said"] != seen and not noted and not (row["said"] == "unknown" and seen == "right"):
            gone = ",".join(map(str, row["drop"])) or "none"
            what = f"{row['runtime']}, {row['model']} without {gone} ({row['dialect']})"
            wrong.append(f"{what}: said {row['said']}, seen {verdict(row)}")
    return wrong


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a row a model and cut, a column a runtime; the dialects side by side where they differ."""
    runtimes = [name for name in RUNTIMES if any(r["runtime"] == name for r in rows)]
    versions = {r["runtime"]: r["version"] for r in rows if "version" in r}
    lines = ["| model | without layers | " + " | ".join(f"{n} {versions.get(n, '')}".strip() for n in runtimes) + " |"]
    lines += ["| --- | --- |" + " --- |" * len(runtimes)]
    found = {(r["model"], tuple(r["drop"]), r["runtime"], r["dialect"]): r for r in rows}
    for model, drop in dict.fromkeys((r["model"], tuple(r["drop"])) for r in rows):
        cells = []
        for runtime in runtimes:
            pair = [found.get((model, drop, runtime, d)) for d in ("as cut", "both")]
            texts = [f"**{verdict(r)}**" if not seen_right(r) else verdict(r) for r in pair if r]
            cells.append(texts[0] if len(set(texts)) == 1 else " → ".join(texts))
        lines.append(f"| {model} | {', '.join(map(str, drop)) or 'none'} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def reasons(rows: list[dict[str, Any]]) -> str:
    """Markdown: in each runtime's own line, why models are refused there, or read otherwise like their originals."""
    lines = []
    for runtime in RUNTIMES:
        models: dict[str, list[str]] = {}
        for row in rows:
            if (
                row["runtime"] == runtime
                and row["reason"]
                and row["said"] in ("refused", "right")
                and not seen_right(row)
            ):
                models.setdefault(row["reason"], []).append(row["model"])
        said = [f"it {why} ({', '.join(dict.fromkeys(names))})" for why, names in models.items()]
        lines += [f"- {runtime}: {'; '.join(said)}"] if said else []
    return "\n".join(lines)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "-o", "--output", type=Path, required=True, help="checkpoints and results; kept for the next call"
    )
    parser.add_argument("--table", action="store_true", help="write the table of the results there into the README")
    parser.add_argument("--only", help="models to run, with commas")
    parser.add_argument("--runtimes", help="runtimes to run, with commas", default=",".join(RUNTIMES))
    given = parser.parse_args()
    add_real_models()
    if given.only:
        for name in [n for n in MODELS if n not in given.only.split(",")]:
            del MODELS[name]
    if missing := [name for name in RUNTIMES if not installed(name)]:
        print(f"not installed, so not tried: {', '.join(missing)} (scripts/runtime NAME)", file=sys.stderr)
    if not given.table:
        run(given.output, given.runtimes.split(","))
    rows = results(given.output)
    text = f"{table(rows)}\n\nRefused, or other than transformers for cut and original alike:\n\n{reasons(rows)}"
    print(text)
    if given.table:
        before, rest = README.read_text(encoding="utf8").split(BEGIN, 1)
        README.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.split(END, 1)[1]}", encoding="utf8")
    wrong = disagreements(rows)
    for line in wrong:
        print(f"DISAGREES: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
