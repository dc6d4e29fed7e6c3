"""What every unit of the study works with: the folder, the models, the documents; and a likelihood of its own."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from prune.data.domains import Domain, batches, load_domain
from prune.model.loading import load_model, load_tokenizer
from prune.planning.evaluator import Evaluator
from prune.planning.plan import Plan

LENGTHS = {"text": 128, "math": 192, "code": 128, "ja": 128, "stories": 128, "levels": 192}
"""Documents are cut to so many tokens."""
BATCH = 8


@dataclass(frozen=True)
class Bench:
    """Attributes:
    folder: everything that the study writes.
    source: the public data, see `documents.prepare`.
    models: name -> directory.
    """

    folder: Path
    source: Path
    models: dict[str, Path]

    def result(self, unit: str) -> dict[str, Any]:
        """What an earlier unit found."""
        return json.loads((self.folder / "results" / f"{unit}.json").read_text(encoding="utf8"))

    def model(self, name: str) -> Any:
        """One of the models, or a directory that an earlier unit wrote below the folder."""
        return load_model(str(self.models.get(name, self.folder / name)))

    def tokenizer(self, name: str) -> Any:
        """A model's tokenizer."""
        return load_tokenizer(str(self.models[name]))

    def domains(
        self, name: str, kind: str, *, only: tuple[str, ...] = (), count: int | None = None
    ) -> dict[str, Domain]:
        """The documents of one kind in a model's tokens; the first `count` of each domain."""
        found = {}
        for file in sorted((self.folder / "data" / kind).glob("*.jsonl")):
            if not only or file.stem in only:
                domain = load_domain(file.stem, str(file), self.tokenizer(name), seq_length=LENGTHS[file.stem])
                short = domain.documents[:count]
                found[file.stem] = Domain(file.stem, short, str(file), f"{domain.sha256}:{len(short)}")
        return found

    def evaluator(
        self, name: str, kind: str, *, model: Any = None, count: int | None = None, only: tuple[str, ...] = ()
    ) -> Evaluator:
        """Scores subsets of a model's layers on documents of one kind, and keeps the scores for later units."""
        domains = self.domains(name, kind, count=count, only=only)
        cache = self.folder / "scores.sqlite"
        return Evaluator(model if model is not None else self.model(name), domains, batch_size=BATCH, cache=cache)

    def plan(self, name: str, label: str, depth: int) -> Plan:
        """A plan that the unit `plans/NAME` made."""
        return Plan.load(self.folder / "plans" / name / f"{label}-{depth}.json")


@torch.no_grad()
def document_nll(model: Any, domain: Domain) -> dict[str, list[float]]:
    """NLL (nats, summed over the counted tokens) and counted tokens of every document, by a plain forward pass."""
    sums, tokens = [0.0] * len(domain.documents), [0.0] * len(domain.documents)
    for batch in batches(domain.documents, BATCH):
        logits = model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
        ).logits  # [B, T, V]
        for row, index in enumerate(batch.index):
            counted = batch.loss_mask[row, 1:]  # [T-1]
            targets = batch.input_ids[row, 1:][counted]  # [N]
            sums[index] = float(cross_entropy(logits[row, :-1][counted].float(), targets, reduction="sum"))
            tokens[index] = float(counted.sum())
    return {"nll": sums, "tokens": tokens}
