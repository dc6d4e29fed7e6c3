"""Which items of a task depend on each other: named by the suite, known for lm-eval's own tasks, or looked for.

Questions about one passage are easy or hard together, so they are fewer witnesses than they seem. The gate resamples
clusters; here every item gets the label of its cluster, and tasks that look clustered without saying so are pointed
out. Labels are hashes of what the items share, so that two tasks with the same questions share their clusters.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise, takewhile
from typing import Any

from evals.errors import EvalUsageError
from evals.suite import TaskSpec

KNOWN = (
    (r"boolq|record|drop", "passage"),
    (r"multirc", "paragraph"),
    (r"squadv2|xquad_\w+|ja_leaderboard_jsquad", "context"),
    (r"belebele_\w+", "flores_passage"),
    (r"qa4mre_\d+", "document_str"),
    (r"hellaswag", "source_id"),
    # MGSM's English questions are the first 250 of GSM8K: a suite that asks both asks them twice.
    (r"gsm8k(_cot.*|_solutions)?|mgsm_(direct|en_cot|native_cot)_\w\w", "question"),
)
"""Pattern of lm-eval task names -> field that dependent items share, where the documents have it."""

LONG_TEXT = 40
"""Characters from which a text that several items share looks like a passage, not like a category."""
LONG_OPENING = 80
"""Characters that two prompts must share, beyond what all prompts do, to look like questions about one text."""
REPEATED = 0.9
"""Fewer distinct texts than this share of the items looks clustered."""
CATEGORIES = 50
"""With more items a text than this, on average, the text is an instruction or a category rather than a passage."""


def cluster_field(spec: TaskSpec, leaf: str, doc: Mapping[str, Any]) -> str | None:
    """The field that dependent items of a task share; None where every item stands alone.

    Args:
        leaf: lm-eval task that `doc` belongs to; `spec` may name a group.

    Raises:
        EvalUsageError: the suite names a field that the documents do not have.
    """
    if spec.cluster is None:
        field = next((field for pattern, field in KNOWN if re.fullmatch(pattern, leaf)), None)
        return field if field in doc else None
    if spec.cluster and spec.cluster not in doc:
        raise EvalUsageError(f"task {leaf}: cluster {spec.cluster!r}: no such field; its items have {', '.join(doc)}")
    return spec.cluster or None


def cluster_label(doc: Mapping[str, Any], field: str) -> str:
    """Hash of what a document shares with others of its cluster."""
    value = doc[field]
    text = value.strip() if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def looks_clustered(leaf: str, rows: Sequence[Mapping[str, Any]], num_fewshot: int) -> str:
    """One line where items of a task without a cluster share long texts; empty where none do.

    Args:
        rows: lm-eval's samples, with `doc` and `arguments`.
        num_fewshot: with examples in the prompt, openings say nothing and only fields are compared.
    """
    cure = "if they depend on each other, the interval is too narrow: name what they share"
    shared = _shared_field([row["doc"] for row in rows])
    if shared:
        field, distinct = shared
        return (
            f"task {leaf}: its {len(rows)} items have only {distinct} different texts in {field!r}; {cure} "
            f"(`cluster: {field}`; `cluster: ''` if they do not)"
        )
    if num_fewshot == 0:
        distinct = _openings([str(row["arguments"][0][0]) for row in rows])
        if _repeats(distinct, len(rows)):
            return (
                f"task {leaf}: the prompts of its {len(rows)} items have only {distinct} different openings; {cure} in "
                "a field of the items (`cluster: FIELD`; `cluster: ''` if they do not)"
            )
    return ""


def _repeats(distinct: int, items: int) -> bool:
    return 1 < distinct < REPEATED * items and items <= CATEGORIES * distinct


def _shared_field(docs: Sequence[Mapping[str, Any]]) -> tuple[str, int] | None:
    """The field with the longest texts that repeat, and how many different ones it has."""
    found = []
    for field in docs[0]:
        texts = [doc.get(field) for doc in docs]
        if all(isinstance(text, str) for text in texts):
            length = sum(map(len, texts)) / len(texts)  # type: ignore[arg-type]
            if length >= LONG_TEXT and _repeats(len(set(texts)), len(texts)):
                found.append((length, field, len(set(texts))))
    return max(found)[1:] if found else None


def _openings(prompts: list[str]) -> int:
    """Distinct prompts, where a long common opening makes two the same."""
    ordered = sorted(prompts)
    least = _common_length(ordered[0], ordered[-1]) + LONG_OPENING  # what all share says nothing
    return len(prompts) - sum(a == b or _common_length(a, b) >= least for a, b in pairwise(ordered))


def _common_length(first: str, second: str) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))
