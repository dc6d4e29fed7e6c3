"""Models with the documents that `bench_planning.py` plans and judges on: the embedded one, and others by option."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from prune.analysis import analyze
from prune.analysis.result import Analysis
from prune.data.domains import Document, Domain, load_domain
from prune.embedded import HERE, MODEL
from prune.model.loading import load_model, load_tokenizer
from prune.planning.evaluator import Evaluator
from prune.planning.plan import Plan
from prune.planning.planner import make_plan

CALIBRATION = ("stories", "questions", "arithmetic", "chain")
HELD_OUT_ROWS = 200  # of each file, at most
SHORT_ANSWER = (16, 32)  # tokens of an answer that are needed, and that are used, by `short`


class Bench:
    """One model with its analysis, and evaluators on calibration and held-out documents."""

    def __init__(
        self, name: str, model: Path, seen: Mapping[str, Domain], held_out: Mapping[str, Domain], options: Any
    ) -> None:
        self.name = name
        self.seed, self.limit = options.seed, options.max_subsets
        self.model = load_model(str(model))
        self.races, self.cache, self.share = options.races, options.cache, options.prediction_share
        self.races_in = options.races_in
        self.seen_domains = seen
        self.seen = Evaluator(self.model, seen, batch_size=32, cache=options.cache)
        self.held_out_domains = held_out
        self.held_out = Evaluator(self.model, held_out, batch_size=32, cache=options.cache)

    @cached_property
    def analysis(self) -> Analysis:
        """Of the calibration documents."""
        return analyze(self.model, self.seen_domains, measure=("contributions", "angular"), batch_size=32, bootstrap=10)

    def plan(self, criterion: str, strategy: str, depth: int, **options: Any) -> Plan:
        """A plan on calibration documents; the evaluator is only given to criteria that run the model."""
        evaluator = self.seen if criterion in ("dnll", "kl") else None
        return make_plan(
            source=self.name,
            analysis=self.analysis,
            model=self.model,
            domains=self.seen_domains,
            evaluator=evaluator,
            criterion=criterion,
            strategy=strategy,
            num_layers=depth,
            **{"seed": self.seed, **options},
        )


def embedded(options: Any) -> Bench:
    """The demo model: calibration files for planning, evaluation files as held-out documents."""
    tokenizer = load_tokenizer(str(MODEL))
    data = HERE / "data"
    seen = {
        name: load_domain(
            name,
            str(data / f"calibration/{name}.jsonl"),
            tokenizer,
            seq_length=160,
            calib_num_samples=options.documents,
        )
        for name in CALIBRATION
    }
    files = {"stories": ["stories"], "questions": ["story_questions"], "arithmetic": [], "chain": ["chain"]}
    files["arithmetic"] = [path.stem for path in sorted((data / "eval").glob("arithmetic_*.jsonl"))]
    held_out = {}
    for name, stems in files.items():
        rows = [row for stem in stems for row in _rows(data / f"eval/{stem}.jsonl")[:HELD_OUT_ROWS]]
        path = Path(options.work) / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf8")
        held_out[name] = load_domain(name, str(path), tokenizer, seq_length=160)
    return Bench("embedded", MODEL, seen, held_out, options)


def _rows(path: Path) -> list[dict[str, str]]:
    """Evaluation items as documents: the text, or the context with the right answer."""
    items = [json.loads(line) for line in path.read_text(encoding="utf8").splitlines()]
    rows = []
    for item in items:
        if "text" in item:
            rows.append({"text": item["text"]})
        else:
            answer = item["completion"] if "completion" in item else item["choices"][item["label"]]
            rows.append({"prompt": item["context"], "completion": answer})
    return rows


def other(name: str, model: str, text: str, options: Any) -> Bench:
    """A model of the user's: the first stories of a file for planning, the next for the held-out figures."""
    tokenizer = load_tokenizer(model)
    domain = load_domain("stories", text, tokenizer, seq_length=128)
    n = options.documents
    halves = [Domain("stories", domain.documents[a : a + n], text, f"{domain.sha256}{a}") for a in (0, n)]
    return Bench(name, Path(model), {"stories": halves[0]}, {"stories": halves[1]}, options)


def short(name: str, model: str, tokens: str, files: str, options: Any) -> Bench:
    """A real model on little: of each file the first of 400 drawn texts, cut, or questions with the answer's start."""
    tokenizer, length, n = load_tokenizer(model), int(tokens), options.documents
    seen, held_out = {}, {}
    for domain, path in (item.split("=", 1) for item in files.split(",")):
        most = length if path.endswith(".txt") else 3 * length  # a question whose answer is cut later
        drawn = load_domain(domain, path, tokenizer, seq_length=most, calib_num_samples=400)
        cut = [_cut(document, length) for document in drawn.documents]
        kept = tuple(document for document in cut if document is not None)
        seen[domain], held_out[domain] = (Domain(domain, kept[a : a + n], path, f"{drawn.sha256}{a}") for a in (0, n))
    return Bench(name, Path(model), seen, held_out, options)


def _cut(document: Document, length: int) -> Document | None:
    """A text of `length` tokens, or a question of at most so many with the start of its answer; None if too short."""
    size, start = len(document.input_ids), document.answer_start
    least, most = SHORT_ANSWER
    if size < length or start > length or size - start < least:
        return None
    return replace(document, input_ids=document.input_ids[: length if start == 1 else start + most])
