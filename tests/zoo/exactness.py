"""The check: a cut checkpoint equals the original with those layers passed through, and generates alike with a cache.

The oracle (`zoo.oracle`) imports nothing of the surgery: in the original model, as the stock loader reads it, the
`forward` of each removed layer is patched to return what it was given. Assumption: one batch of two prompts, longer
than every attention window, shows a wrong mask, gate, scale or cache; comparisons are in float32 with eager attention
and equal batch shapes.
"""

from __future__ import annotations

import copy
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from prune.errors import PruneError
from prune.surgery.cut import cut
from prune.surgery.loaded import drop_layers
from prune.surgery.proof import prove
from zoo.build import tiny_model
from zoo.families import DEPTH, VOCABULARY
from zoo.oracle import CACHE_TOLERANCE, cache_error, difference, load, logits

DROPS: tuple[tuple[int, ...], ...] = ((3, 4), (0,), (DEPTH - 1,), (1, 2, 6))
TOLERANCE = 1e-5


@dataclass
class Finding:
    """What came of one removal from one family.

    Attributes:
        family: model_type.
        drop: removed layers of the eight.
        verdict: `exact`, `refused`, or `wrong` (written and proved, yet different: the one thing that must not be).
        reason: the refusal, or what differs.
        error: largest logit difference between disk and oracle, relative to the oracle's standard deviation.
        memory: `exact`, `refused` or what differs, for removal from the loaded model.
        generation: `equal`, or `original differs` where the original's own cached generation is not its recomputation.
        fields: config fields that changed, with their new values.
    """

    family: str
    drop: list[int]
    verdict: str = "exact"
    reason: str = ""
    error: float = 0.0
    memory: str = "exact"
    generation: str = "equal"
    fields: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def examine(
    family: str, directory: Path, drops: Sequence[Sequence[int]] = DROPS, *, memory: bool = True
) -> list[Finding]:
    """Save a tiny model of the family, cut it in each way, and compare.

    Args:
        family: one of `FAMILIES`.
        directory: scratch space; what is written there is removed again.
        drops: the removals to try.
        memory: also remove the layers from the loaded model.
    """
    source = directory / family
    tiny_model(family).save_pretrained(source)
    original = load(source)
    ids = torch.randint(4, VOCABULARY, (2, 13), generator=torch.Generator().manual_seed(1))  # [B, T]
    has_cache = cache_error(original, ids) <= CACHE_TOLERANCE
    findings = []
    for drop in drops:
        finding = Finding(family, list(drop))
        if not has_cache:
            finding.generation = "original differs"
        try:
            judge(finding, source, original, ids, has_cache)
        except PruneError as error:
            finding.verdict, finding.reason = "refused", " ".join(str(error).split())
        if memory:
            finding.memory = in_memory(original, drop, ids, has_cache)
        findings.append(finding)
        shutil.rmtree(directory / f"{family}-out", ignore_errors=True)
    shutil.rmtree(source)
    return findings


def judge(finding: Finding, source: Path, original: Any, ids: torch.Tensor, has_cache: bool) -> None:
    """Cut on disk, prove, and compare with the oracle.

    Raises:
        PruneError: the cut is refused.
    """
    output = source.with_name(f"{source.name}-out")
    with mock.patch("prune.surgery.proof.prove_in_child", prove):
        cut(str(source), output, drop_layers=finding.drop)
    compare(finding, load(output), logits(original, ids, DEPTH, finding.drop), ids, has_cache)
    finding.fields = changed_fields(source, output)


def compare(finding: Finding, model: Any, expected: torch.Tensor, ids: torch.Tensor, has_cache: bool) -> None:
    """Judge a cut model against the oracle's logits, and its cached generation against recomputation."""
    finding.error = difference(logits(model, ids), expected)
    if not finding.error <= TOLERANCE:
        finding.verdict, finding.reason = "wrong", f"logits differ by {finding.error:.1e}"
    elif has_cache and not cache_error(model, ids) <= CACHE_TOLERANCE:
        finding.verdict, finding.reason = "wrong", "cached generation differs from recomputation"


def in_memory(original: Any, drop: Sequence[int], ids: torch.Tensor, has_cache: bool) -> str:
    """The same judgement of `drop_layers`."""
    try:
        model = drop_layers(copy.deepcopy(original), list(drop))
    except PruneError as error:
        return f"refused: {' '.join(str(error).split())}"
    finding = Finding("", [])
    compare(finding, model, logits(original, ids, DEPTH, drop), ids, has_cache)
    return "exact" if finding.verdict == "exact" else finding.reason


def changed_fields(source: Path, output: Path) -> dict[str, Any]:
    """Fields of config.json that differ, with their new values."""
    old, new = (json.loads((path / "config.json").read_text()) for path in (source, output))
    return {name: value for name, value in new.items() if old.get(name) != value}


def examine_all(families: Sequence[str], directory: Path, *, report: Any = print) -> list[Finding]:
    """`examine` for many families, one line each; a family that breaks the check itself is `wrong`."""
    found: list[Finding] = []
    for family in families:
        start = time.monotonic()
        try:
            results = examine(family, directory)
        except Exception as error:  # the table must name every family, also one that breaks the check
            results = [Finding(family, [], "wrong", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")]
        report(f"{family:24s} {' '.join(r.verdict for r in results)} {time.monotonic() - start:.1f} s")
        found += results
    return found
