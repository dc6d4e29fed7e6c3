"""What work on a real model costs: ratios within one run, since only those carry over to other machines.

    python scripts/bench_real.py --model SMOLLM2_DIR --data PUBLIC_DATA [--parts eval,analysis,heal,decode,memory,head]

Everything runs on one CPU thread in float32; seconds are the process's own CPU seconds. Parts:

eval      `run_tasks` against lm-eval's own `HFLM` and `evaluate`, which its command runs, at several batch sizes:
          LAMBADA, HellaSwag and GSM8K (5 shots) on the same items, each side in a process of its own; scores compared.
analysis  the default analysis against plain forward passes of the same tokens.
heal      a step of healing against Trainer + peft at the same adapters (`bench_healing.py` on this model).
decode    prefill and decoding of 24 layers against 30: what is saved over the share of the layers that is gone, net
          of what no layer does (embedding and head, measured on the model without any layer).
memory    the peak of each step above the weights against a formula.
head      scoring each layer's removal on a sample of the predictions against all of them: time, and what it changes.
          For a model whose head outweighs its layers, such as Gemma 3 270M.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from bench_healing import REAL_DROPPED, measure
from scipy.stats import spearmanr

from evals.fitted import sequence_bytes
from evals.peak_memory import peak_memory_bytes
from prune.analysis import analyze
from prune.data.domains import Domain, load_domain
from prune.model.anatomy import find_anatomy
from prune.model.loading import load_model, load_tokenizer
from prune.planning.evaluator import Evaluator
from prune.surgery.loaded import drop_layers

ITEMS = {"lambada_openai": ("acc", 4, 0), "hellaswag": ("acc_norm", 2, 0), "gsm8k": ("exact_match", 1, 5)}
"""Task -> metric, items of it for one of GSM8K's, shots."""
LONGEST_ANSWER = 32
WANTED = {"eval": "at most 1", "system": "at most 5 %", "plain": "at least 0.95", "distil": "at most 1.45",
          "decode": "at least 0.95", "memory": "at most 1"}  # fmt: skip


@contextmanager
def cpu_seconds(into: dict[str, float]) -> Iterator[None]:
    """User and system seconds of this process, waiting not counted."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    yield
    after = resource.getrusage(resource.RUSAGE_SELF)
    into |= {"user": after.ru_utime - before.ru_utime, "system": after.ru_stime - before.ru_stime}


def one_side(options: argparse.Namespace) -> None:
    """One evaluation here and now; prints its seconds and scores as JSON."""
    from evals.harness import run_tasks
    from evals.silence import silenced
    from evals.suite import TaskSpec
    from evals.tasks import find_tasks

    model, tokenizer = load_model(str(options.model)), load_tokenizer(str(options.model))
    specs = [
        TaskSpec(task=name, metric=metric, limit=count * options.items, num_fewshot=shots, max_gen_toks=LONGEST_ANSWER,
                 filter="flexible-extract" if name == "gsm8k" else "none")
        for name, (metric, count, shots) in ITEMS.items()
    ]  # fmt: skip
    seconds: dict[str, float] = {}
    scores: dict[str, Any] = {}
    if options.side == "ours":
        with cpu_seconds(seconds):
            found = run_tasks(model, tokenizer, specs, local_data=options.data)
        scores = {name: result.value for name, result in found.items()}
    else:
        from lm_eval import evaluate
        from lm_eval.models.huggingface import HFLM

        with silenced(), cpu_seconds(seconds):
            tasks = find_tasks(specs, (), options.data)
            lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=int(options.side))
            for spec in specs:
                leaves = {"tasks": tasks.load(spec, 0, None), "groups": {}, "group_map": {}}
                results = evaluate(lm, leaves, limit=spec.limit, bootstrap_iters=0)["results"]
                scores[spec.task] = results[spec.task][f"{spec.metric},{spec.filter}"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({**seconds, "peak_mb": peak, "scores": scores}))


def evaluation(options: argparse.Namespace) -> Iterator[str]:
    """Ours against theirs at their best batch size."""
    sides = {}
    for side in ("ours", *options.batches.split(",")):
        command = [
            sys.executable,
            __file__,
            "--model",
            options.model,
            "--data",
            options.data,
            "--side",
            side,
            "--items",
            options.items,
        ]
        done = subprocess.run([*map(str, command)], stdout=subprocess.PIPE, text=True, check=True)
        sides[side] = json.loads(done.stdout.splitlines()[-1])
    total = {side: found["user"] + found["system"] for side, found in sides.items()}
    best = min(set(sides) - {"ours"}, key=total.__getitem__)
    same = all(found["scores"] == sides["ours"]["scores"] for found in sides.values())
    for side, found in sides.items():
        name = "ours, by memory" if side == "ours" else f"lm-eval, batches of {side}"
        share = 100 * found["system"] / total[side]
        yield row("eval", f"{name}: CPU seconds, system, peak",
                  f"{total[side]:.0f} s, {share:.1f} %, {found['peak_mb']:.0f} MB", "")  # fmt: skip
    ratio = total["ours"] / total[best]
    yield row("eval", f"ours over lm-eval at its best ({best})", f"{ratio:.2f} x", WANTED["eval"])
    system = 100 * sides["ours"]["system"] / total["ours"]
    yield row("eval", "system time of ours", f"{system:.1f} %", WANTED["system"])
    yield row("eval", "scores", "the same to the last digit" if same else "DIFFERENT", "the same")


def analysis(options: argparse.Namespace) -> Iterator[str]:
    """The default measures on 4 documents of 96 tokens."""
    model, domain = load_model(str(options.model)), documents(options, 4, 96)
    rows = torch.tensor([d.input_ids for d in domain.documents])  # [B, T]

    def plain() -> None:
        with torch.inference_mode():
            model(rows, use_cache=False)

    plain()
    forward = [seconds(plain) for _ in range(3)]
    took = seconds(lambda: analyze(model, {"text": domain}, source="model", batch_size=4, bootstrap=50))
    layers = model.config.num_hidden_layers
    yield row("analysis", "default analysis over a plain forward pass",
              f"{took / statistics.median(forward):.1f} x", f"{layers} removals alone would be {layers} x")  # fmt: skip


def healing(options: argparse.Namespace) -> Iterator[str]:
    """Time of a step against Trainer + peft: where every token is predicted, and on what the study trains on."""
    kinds = ("plain", "next token", "distillation")
    tokenizer = load_tokenizer(str(options.model))
    files = {"text": "wikitext2/valid.txt", "math": "gsm8k/train.jsonl"}
    mixed = {
        name: load_domain(name, str(options.data / path), tokenizer, seq_length=192, calib_num_samples=100)
        for name, path in files.items()
    }
    for words, domains, size in (("every token predicted", False, 1), ("half text, half worked answers", mixed, 4)):
        with tempfile.TemporaryDirectory() as folder:
            found = measure(str(options.model), domains, options.steps, Path(folder), kinds, size=size)
        yield row("heal", f"{words}: throughput over Trainer + peft, same adapters",
                  f"{found['throughput_ratio']:.2f} x", WANTED["plain"])  # fmt: skip
        yield row("heal", f"{words}: a step with distillation over one of Trainer + peft, same adapters",
                  f"{found['distill_step_ratio_same_adapters']:.2f} x", WANTED["distil"])  # fmt: skip
    yield row("heal", "every token predicted, by arithmetic: no implementation that runs the original does less",
              f"{distillation_floor(options):.2f} x", "")  # fmt: skip


def distillation_floor(options: argparse.Namespace) -> float:
    """Weights multiplied in a step with the original over one without it, adapters' own not counted.

    A frozen layer or head takes one pass forward and one back to its input; layers below the first trained one run
    forward, once, for both models.
    """
    anatomy = find_anatomy(load_model(str(options.model)))
    head = sum(p.numel() for p in anatomy.head.parameters())
    layer = sum(p.numel() for p in anatomy.layers[0].parameters())
    below = min(REAL_DROPPED) - 1  # the layer before the first gap is trained
    trained = anatomy.num_layers - len(REAL_DROPPED) - below
    student = (below + 2 * trained) * layer + 2 * head
    return (student + (anatomy.num_layers - below) * layer + head) / student


def decode(options: argparse.Namespace) -> Iterator[str]:
    """Prefill of 256 tokens and 24 decoding steps, models in turn."""
    whole = load_model(str(options.model))
    layers = whole.config.num_hidden_layers
    cut = drop_layers(copy.deepcopy(whole), REAL_DROPPED)
    bare = copy.deepcopy(whole)
    bare.model.layers = torch.nn.ModuleList([])
    bare.config.num_hidden_layers = 0
    models = {layers: whole, layers - len(REAL_DROPPED): cut, 0: bare}
    times: dict[int, list[tuple[float, float]]] = {depth: [] for depth in models}
    for repeat in range(options.repeats + 1):
        for depth, model in models.items():
            took = prefill_and_decode(model, 256, 24)
            times[depth] += [took] if repeat else []  # the first warms up
    for place, name in enumerate(("prefill", "decoding")):
        seen = {depth: min(took[place] for took in runs) for depth, runs in times.items()}
        saved = (seen[layers] - seen[layers - len(REAL_DROPPED)]) / (seen[layers] - seen[0])
        share = len(REAL_DROPPED) / layers
        yield row("decode", f"{name}: saved of what the layers take ({100 * share:.0f} % of them are gone)",
                  f"{100 * saved:.1f} %: {saved / share:.2f} x the share", WANTED["decode"])  # fmt: skip


@torch.inference_mode()
def prefill_and_decode(model: Any, prompt: int, new: int) -> tuple[float, float]:
    """CPU seconds of one prefill and of the steps after it."""
    output: Any = None

    def first() -> None:
        nonlocal output
        output = model(torch.arange(prompt)[None] + 5, use_cache=True, logits_to_keep=1)

    def steps() -> None:
        cache = output.past_key_values
        for step in range(new):
            model(torch.tensor([[step + 9]]), past_key_values=cache, use_cache=True, logits_to_keep=1)

    return seconds(first), seconds(steps)


def memory(options: argparse.Namespace) -> Iterator[str]:
    """Peaks above the weights: a forward pass as an evaluation makes it, the default analysis."""
    model, domain = load_model(str(options.model)), documents(options, 4, 96)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    count, tokens = len(domain.documents), 96
    many = torch.tensor([d.input_ids for d in documents(options, 16, 96).documents])  # [16, T]

    def scored(rows: torch.Tensor) -> None:
        with torch.inference_mode():
            model(rows).logits.log_softmax(-1)

    config = model.config
    stream = count * tokens * config.hidden_size * 4
    formulas: dict[str, tuple[Callable[[], object], int, str]] = {
        f"evaluation, {len(rows)} x {tokens}": (
            functools.partial(scored, rows),
            len(rows) * sequence_bytes(model, tokens, all_logits=True),
            "B x `fitted.sequence_bytes`",
        )
        for rows in (many[:4], many)
    } | {
        f"analysis, {count} x {tokens}": (
            lambda: analyze(model, {"text": domain}, source="model", batch_size=count, bootstrap=50),
            2 * (config.num_hidden_layers + 1) * stream + 10 * count * tokens * config.vocab_size * 4,
            "2 (L + 1) streams + 10 B T V logits, float32",
        ),
    }
    for name, (run, formula, words) in formulas.items():
        run()  # what libraries allocate when first used
        peak = peak_memory_bytes(model, run)
        if peak is not None:
            yield row("memory", f"{name}: peak above the weights ({weights >> 20} MB) over {words}",
                      f"{(peak - weights) >> 20} of {formula >> 20} MB: {(peak - weights) / formula:.2f} x",
                      WANTED["memory"])  # fmt: skip


def head(options: argparse.Namespace) -> Iterator[str]:
    """Each layer alone, on 8 documents of 96 tokens: every prediction, and the share that planning takes."""
    model, domain = load_model(str(options.model)), documents(options, 8, 96)
    layers = range(model.config.num_hidden_layers)
    keeps = [[other for other in layers if other != layer] for layer in layers]
    costs: dict[float | None, list[float]] = {}
    took: dict[float | None, float] = {}
    for share in (1.0, None):
        evaluator = Evaluator(model, {"text": domain}, prediction_share=share)
        took[share] = seconds(lambda e=evaluator, s=share: costs.update({s: [x.total for x in e.score_many(keeps)]}))
    share = evaluator.prediction_share
    yield row(
        "head", f"scoring on {share:.0%} of the predictions over all", f"{took[None] / took[1.0]:.2f} x", "below 1"
    )
    correlation = spearmanr(costs[1.0], costs[None]).statistic
    cheapest = [set(sorted(layers, key=found.__getitem__)[: len(layers) // 4]) for found in costs.values()]
    same = len(cheapest[0] & cheapest[1])
    yield row("head", "rank correlation of the layers' costs; cheapest quarter in common",
              f"{correlation:.3f}; {same} of {len(layers) // 4}", "near 1")  # fmt: skip


def documents(options: argparse.Namespace, count: int, tokens: int) -> Domain:
    """WikiText-2 paragraphs cut to one length."""
    text = [line for line in (options.data / "wikitext2/valid.txt").read_text().splitlines() if len(line) > 900]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "text.jsonl"
        file.write_text("".join(json.dumps({"text": line}) + "\n" for line in text[:count]))
        return load_domain("text", str(file), load_tokenizer(str(options.model)), seq_length=tokens)


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds of this process."""
    began = time.process_time()
    work()
    return time.process_time() - began


def row(*cells: str) -> str:
    """A line of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


PARTS = {"eval": evaluation, "analysis": analysis, "heal": healing, "decode": decode, "memory": memory, "head": head}


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="directory of SmolLM2-135M-Instruct")
    parser.add_argument("--data", type=Path, required=True, help="public data, as for real_study.py")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--steps", type=int, default=4, help="of healing, timed")
    parser.add_argument("--repeats", type=int, default=3, help="of decoding")
    parser.add_argument("--items", type=int, default=4, help="of GSM8K; of the others two and four times as many")
    parser.add_argument("--batches", default="1,4,16,32", help="lm-eval's batch sizes")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.side:
        one_side(options)
        return
    print(row("part", "what", "seen", "wanted"))
    print(row(*["---"] * 4))
    for part in options.parts.split(","):
        for line in PARTS[part](options):
            print(line, flush=True)


if __name__ == "__main__":
    main()
