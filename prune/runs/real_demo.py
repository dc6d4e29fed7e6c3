"""`prune demo --real`: a real model, and a folder with the recipe and the documents it names.

The documents are made on the spot from what the package and Python bring along; nothing is downloaded but the model.
The folder lies in the user's cache, is written once for each model directory, and may be copied and edited: its
recipe runs with `prune run`.
"""

from __future__ import annotations

import itertools
import json
import os
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from prune.embedded import REAL
from prune.embedded.generators import EVAL_SEED_BASE, distinct_items
from prune.embedded.standard_library import functions, paragraphs
from prune.embedded.word_problems import word_problems
from prune.files import sha256_json, staged_directory
from prune.gguf.real_models import SMOLLM2, cache_directory, fetch, fetched

SEED = 0
CALIBRATION, EVALUATION, HEALING = 12, 24, 240
"""Documents of each domain, at most."""
PROBLEMS, QUESTIONS = 64, 120
"""Held-out items."""
HUB_SECONDS = 20
Row = dict[str, Any]


def find_real_model() -> str:
    """The directory of SmolLM2-135M-Instruct: from the cache, from the hub where it can be reached, or by package.

    Raises:
        PruneError: neither can be had.
    """
    if known := fetched(SMOLLM2):
        return str(known)
    if os.environ.get("HF_HUB_OFFLINE", "0") in ("", "0"):
        from huggingface_hub import snapshot_download

        try:
            return snapshot_download(
                SMOLLM2.hub_id,
                allow_patterns=["*.json", "*.safetensors", "*.txt", "LICENSE*"],
                etag_timeout=HUB_SECONDS,
            )
        except Exception:  # no network, a proxy, a hub that refuses: whatever it is, the package may still be had
            pass
    return str(fetch(SMOLLM2))


def prepare(model: str) -> Path:
    """The recipe of the demo on a model, in a folder with its documents.

    Raises:
        PruneError: this Python lacks its language reference.
    """
    text = REAL.read_text(encoding="utf8").replace("{model}", json.dumps(model))
    files = dict(_files())
    name = sha256_json([text, files])[:16]
    folder = cache_directory() / "demo" / name
    if not (folder / REAL.name).is_file():
        with staged_directory(folder) as staging:
            for path, rows in files.items():
                target = staging / "data" / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf8")
            (staging / REAL.name).write_text(text, encoding="utf8")
    return folder / REAL.name


def _files() -> Iterator[tuple[str, list[Row]]]:
    for name, documents in {"text": paragraphs(), "code": functions()}.items():
        rows = [{"text": document} for document in _shuffled(documents)]
        yield f"calibration/{name}.jsonl", rows[:CALIBRATION]
        yield f"eval/{name}.jsonl", rows[CALIBRATION : CALIBRATION + EVALUATION]
        yield f"heal/{name}.jsonl", rows[CALIBRATION + EVALUATION :][:HEALING]
    seen = [_worked(item) for item in itertools.islice(word_problems(SEED, "train"), CALIBRATION + HEALING)]
    yield "calibration/math.jsonl", seen[:CALIBRATION]
    yield "heal/math.jsonl", seen[CALIBRATION:]
    yield "eval/math.jsonl", [_worked(i) for i in itertools.islice(word_problems(EVAL_SEED_BASE, "eval"), PROBLEMS)]
    questions = distinct_items("story", EVAL_SEED_BASE, QUESTIONS, people=1)
    yield (
        "eval/questions.jsonl",
        [
            {
                "prompt": item.prompt,
                "choices": [choice.strip() for choice in item.choices],
                "answer": item.choices.index(item.completion),
            }
            for item in questions
        ],
    )


def _worked(item: Any) -> Row:
    return {"prompt": item.prompt, "completion": item.completion, "difficulty": item.difficulty}


def _shuffled(documents: Iterable[str]) -> list[str]:
    found = list(documents)
    random.Random(SEED).shuffle(found)
    return found
