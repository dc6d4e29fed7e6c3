"""What the demo model can do, as generators of items: sums, chains of operations, questions about tiny stories.

Knows nothing of torch or of models. Two assumptions: every item is (prompt, completion) text where the completion
starts with a blank, as lm-eval's arithmetic tasks have it; and a prompt belongs to the evaluation split when the
CRC-32 of its text is divisible by `HELD_OUT_MODULUS`. Training refuses those prompts and evaluation takes only
those, so the two can never share an item, whatever seeds are used.
"""

from __future__ import annotations

import itertools
import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

HELD_OUT_MODULUS = 10
"""One prompt in ten is kept for evaluation."""

EVAL_SEED_BASE = 1_000_000
"""Evaluation seeds start here; training seeds lie below."""

Split = Literal["train", "eval"]

NAMES = "Tom Mia Ben Lily Sam Anna Max Lucy Jack Emma Tim Sue Leo Ella Bob Zoe Dan Amy Joe Kim".split()
OBJECTS = "ball cup hat book car doll kite box drum spoon bag lamp shoe ring bell boat key toy coat cake".split()
COLORS = "red blue green yellow pink black white brown orange purple".split()
PLACES = "garden kitchen park school forest barn shop house yard bedroom castle market".split()


@dataclass(frozen=True)
class Item:
    """One question with its only right answer.

    Attributes:
        prompt: text up to and including the cue of the answer.
        completion: the answer, with its leading blank where the wording has one.
        choices: for multiple choice, the four candidate completions (the right one among them); else empty.
        difficulty: number of reasoning steps.
    """

    prompt: str
    completion: str
    choices: tuple[str, ...] = ()
    difficulty: int = 1


def held_out(prompt: str) -> bool:
    """Whether a prompt belongs to the evaluation split (CRC-32 of its UTF-8 bytes, modulo `HELD_OUT_MODULUS`)."""
    return zlib.crc32(prompt.encode()) % HELD_OUT_MODULUS == 0


def _question(expression: str, value: int, steps: int = 1) -> Item:
    # The wording of lm-eval's arithmetic_* tasks after their process_docs.
    return Item(f"Question: What is {expression}?\nAnswer:", f" {value}", difficulty=steps)


def _two_operands(rng: random.Random, top: int, word: str) -> Item:
    a, b = rng.randrange(top), rng.randrange(top)
    return _question(f"{a} {word} {b}", a + b if word == "plus" else a - b)


def two_digit_addition(rng: random.Random) -> Item:
    """`arithmetic_2da`: the sum of two numbers below 100."""
    return _two_operands(rng, 100, "plus")


def two_digit_subtraction(rng: random.Random) -> Item:
    """`arithmetic_2ds`: the difference of two numbers below 100; may be negative."""
    return _two_operands(rng, 100, "minus")


def three_digit_addition(rng: random.Random) -> Item:
    """`arithmetic_3da`: the sum of two numbers below 1000."""
    return _two_operands(rng, 1000, "plus")


def three_operations(rng: random.Random) -> Item:
    """`arithmetic_1dc`: `(a op b) op c` on single digits, op one of + - *."""
    apply: dict[str, Callable[[int, int], int]] = {
        "+": lambda x, y: x + y,
        "-": lambda x, y: x - y,
        "*": lambda x, y: x * y,
    }
    a, b, c = (rng.randint(1, 9) for _ in range(3))
    first, second = rng.choice("+-*"), rng.choice("+-*")
    return _question(f"({a} {first} {b}) {second} {c}", apply[second](apply[first](a, b), c), steps=2)


def chain(rng: random.Random, steps: int | None = None) -> Item:
    """A chain of one to four operations, `k=3;q=k+4;z=q-2;z=`; every value is a digit."""
    steps = steps or rng.randint(1, 4)
    letters = rng.sample("abcdefghijklmnopqrstuvwxyz", steps + 1)
    value = rng.randint(0, 9)
    parts = [f"{letters[0]}={value};"]
    for before, after in itertools.pairwise(letters):
        result = rng.choice([v for v in range(10) if v != value])
        sign, operand = ("+", result - value) if result > value else ("-", value - result)
        parts.append(f"{after}={before}{sign}{operand};")
        value = result
    return Item("".join(parts) + f"{letters[-1]}=", str(value), difficulty=steps)


@dataclass(frozen=True)
class Story:
    """Who has which thing, of which color, and where; told in shuffled sentences."""

    text: str
    names: list[str]
    objects: list[str]
    colors: list[str]
    places: list[str]

    def asked(self, who: int) -> tuple[tuple[str, list[str], list[str]], ...]:
        """The four questions about one person: wording, the answers for every person, where wrong ones come from."""
        return (
            (f"Who has the {self.objects[who]}?", self.names, NAMES),
            (f"What does {self.names[who]} have?", self.objects, OBJECTS),
            (f"What color is the {self.objects[who]}?", self.colors, COLORS),
            (f"Where is {self.names[who]}?", self.places, PLACES),
        )


def tell_story(rng: random.Random, people: int | None = None) -> Story:
    """A story of one to three people, each with a coloured thing and a place."""
    count = people or rng.choice((1, 2, 2, 3))
    names, objects = rng.sample(NAMES, count), rng.sample(OBJECTS, count)
    colors, places = rng.sample(COLORS, count), rng.sample(PLACES, count)
    sentences = []
    for name, thing, color, place in zip(names, objects, colors, places, strict=True):
        has = rng.choice((f"{name} has a {color} {thing}.", f"{name} found a {color} {thing}."))
        sentences += [has, rng.choice((f"{name} is in the {place}.", f"{name} went to the {place}."))]
    rng.shuffle(sentences)
    return Story(" ".join(sentences), names, objects, colors, places)


def story_question(rng: random.Random, people: int | None = None) -> Item:
    """A story, then one question about it."""
    story = tell_story(rng, people)
    count = len(story.names)
    who = rng.randrange(count)
    question, answers, pool = rng.choice(story.asked(who))
    choices = [*answers, *rng.sample([w for w in pool if w not in answers], 4 - count)]
    rng.shuffle(choices)
    return Item(
        f"{story.text}\nQuestion: {question}\nAnswer:",
        f" {answers[who]}",
        choices=tuple(f" {c}" for c in choices),
    )


def story_questions(rng: random.Random) -> list[tuple[str, str]]:
    """A story, then every question about it that is not held out, in random order: pieces (prompt, completion).

    For training only: many answers for one reading of the story. A question whose own prompt (story and question) is
    held out is left out. A prompt about one person may still be the end of a longer story, as it may be in `items`.
    """
    story = tell_story(rng)
    asked = [
        (f"\nQuestion: {question}\nAnswer:", f" {answers[who]}")
        for who in range(len(story.names))
        for question, answers, _ in story.asked(who)
    ]
    rng.shuffle(asked)
    allowed = [(prompt, answer) for prompt, answer in asked if not held_out(story.text + prompt)]
    return [(story.text + prompt if i == 0 else prompt, answer) for i, (prompt, answer) in enumerate(allowed)]


GENERATORS: dict[str, Callable[[random.Random], Item]] = {
    "arithmetic_2da": two_digit_addition,
    "arithmetic_2ds": two_digit_subtraction,
    "arithmetic_3da": three_digit_addition,
    "arithmetic_1dc": three_operations,
    "chain": chain,
    "story": story_question,
}


def items(name: str, seed: int, split: Split, **options: int) -> Iterator[Item]:
    """An endless stream of items of one split.

    Args:
        name: a key of `GENERATORS`.
        seed: below `EVAL_SEED_BASE` for training, at or above it for evaluation.
        split: "train" or "eval".
        options: passed to the generator (`steps` for "chain", `people` for "story").

    Raises:
        ValueError: the seed belongs to the other split.
    """
    if (seed >= EVAL_SEED_BASE) != (split == "eval"):
        raise ValueError(
            f"seed {seed} does not belong to the {split} split (evaluation seeds start at {EVAL_SEED_BASE})"
        )
    rng = random.Random(seed)
    generate = GENERATORS[name]
    while True:
        item = generate(rng, **options)
        if held_out(item.prompt) == (split == "eval"):
            yield item


def distinct_items(name: str, seed: int, count: int, **options: int) -> list[Item]:
    """`count` evaluation items with pairwise different prompts; fewer where the task has no more of them."""
    found: dict[str, Item] = {}
    for item in itertools.islice(items(name, seed, "eval", **options), 100 * count):
        found.setdefault(item.prompt, item)
        if len(found) == count:
            break
    return list(found.values())
