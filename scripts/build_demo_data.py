"""Write the data of the embedded demo: calibration, healing and evaluation items, and stories from the demo model.

    python scripts/build_demo_data.py [-o prune/embedded/data]

Items come from prune.embedded.generators (evaluation items from the held-out split, all others from the training
split); stories are sampled from the demo model itself at temperature 0.7, so that no text of others is shipped.
Deterministic: the tests compare the shipped item files with what the generators give.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from prune.embedded import HERE, MODEL
from prune.embedded.generators import EVAL_SEED_BASE, GENERATORS, Item, distinct_items, items

ITEMS = [name for name in GENERATORS if name != "story"]
SUMS = [name for name in ITEMS if name != "chain"]
CALIBRATION, HEALING_EACH, HEALING_STORIES = 96, 1200, 1600
EVAL_EACH, EVAL_STORY_QUESTIONS = 200, 400
STORIES = {"calibration": 40, "heal": 240, "eval": 60}
TEMPERATURE, STORY_TOKENS, MIN_STORY_TOKENS = 0.7, 150, 60
OPENINGS, OPENING_TOKENS, OPENING_LETTERS = 1600, 56, (100, 180)
SENTENCE_END = re.compile(r'[.!?]"?(?=\s|$)')


def rows_of(generated: Iterable[Item]) -> list[dict]:
    """Prompt and completion, as `--data` reads them; the number of steps is the difficulty."""
    return [{"prompt": i.prompt, "completion": i.completion, "difficulty": i.difficulty} for i in generated]


def take(name: str, seed: int, count: int) -> list[Item]:
    """The first items of a training stream."""
    return [item for item, _ in zip(items(name, seed, "train"), range(count), strict=False)]


def item_files() -> dict[str, list[dict]]:
    """Relative file name -> rows, of every file that comes from the generators alone."""
    each = CALIBRATION // len(SUMS)
    files: dict[str, list[dict]] = {
        "calibration/arithmetic.jsonl": [r for n in SUMS for r in rows_of(take(n, 900, each))],
        "calibration/chain.jsonl": rows_of(take("chain", 900, CALIBRATION)),
        "calibration/questions.jsonl": rows_of(take("story", 900, CALIBRATION)),
        "heal/arithmetic.jsonl": [r for n in ITEMS for r in rows_of(take(n, 901, HEALING_EACH))],
    }
    for name in ITEMS:
        chosen = distinct_items(name, EVAL_SEED_BASE + 1, EVAL_EACH)
        files[f"eval/{name}.jsonl"] = [
            {"context": i.prompt, "completion": i.completion, "steps": i.difficulty} for i in chosen
        ]
    for file, options in {"story_facts": {"people": 1}, "story_questions": {}}.items():
        questions = distinct_items("story", EVAL_SEED_BASE + 1, EVAL_STORY_QUESTIONS, **options)
        files[f"eval/{file}.jsonl"] = [
            {"context": i.prompt, "choices": list(i.choices), "label": i.choices.index(i.completion)} for i in questions
        ]
    return files


def sampled(most: int, rows: int = 64) -> Iterator[tuple[str, int]]:
    """An endless stream of the demo model's stories: text, and its tokens, `most` of them where it did not end."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    torch.manual_seed(0)
    while True:
        starts = torch.full((rows, 1), tokenizer.eos_token_id)
        made = model.generate(
            starts, attention_mask=torch.ones_like(starts), do_sample=True, temperature=TEMPERATURE, top_k=0,
            max_new_tokens=most,
        )  # fmt: skip
        for row in made[:, 1:].tolist():
            length = row.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in row else len(row)
            yield tokenizer.decode(row[:length], skip_special_tokens=True).strip(), length


def sample_stories(count: int) -> list[str]:
    """Stories up to their end or to their last full sentence."""
    found: list[str] = []
    for text, length in sampled(STORY_TOKENS):
        if len(found) == count:
            break
        kept = text if length < STORY_TOKENS else text[: text.rfind(".") + 1]
        if length >= MIN_STORY_TOKENS and kept:
            found.append(kept)
    return found


def sample_openings(count: int, stories: Iterable[str]) -> list[str]:
    """Different first sentences of about one length, none of which begins one of `stories`.

    Many and short, because the gate counts documents: it allows for one that is lost whole.
    """
    known = tuple(stories)
    found: dict[str, None] = {}
    for text, _ in sampled(OPENING_TOKENS, rows=256):
        if len(found) == count:
            break
        ends = (end.end() for end in SENTENCE_END.finditer(text))
        opening = text[: next((end for end in ends if end >= OPENING_LETTERS[0]), 0)]
        if opening and len(opening) <= OPENING_LETTERS[1] and not any(s.startswith(opening) for s in known):
            found[opening] = None
    return list(found)


def write(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output_dir", type=Path, default=HERE / "data")
    target: Path = parser.parse_args().output_dir
    for name, rows in item_files().items():
        write(target / name, rows)
    stories = sample_stories(sum(STORIES.values()))
    openings = sample_openings(OPENINGS, stories)
    write(target / "eval/openings.jsonl", [{"text": text} for text in openings])
    for use, count in STORIES.items():
        texts, stories = stories[:count], stories[count:]
        questions = rows_of(take("story", 901, HEALING_STORIES)) if use == "heal" else []
        write(target / use / "stories.jsonl", [{"text": text} for text in texts] + questions)
    for path in sorted(target.rglob("*.jsonl")):
        print(path.relative_to(target), sum(1 for _ in path.open(encoding="utf8")), "rows")


if __name__ == "__main__":
    main()
