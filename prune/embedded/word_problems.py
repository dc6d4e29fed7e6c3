"""Word problems with worked answers, in the manner of grade-school mathematics: what `prune demo --real` measures.

Knows nothing of models. A problem is a short tale of two or three steps; its answer works them out one a sentence and
ends with `#### N`, as the answers of GSM8K do. Problems of the evaluation split are told from those of training by
their prompt alone (`generators.held_out`), so the two share none, whatever seeds are used.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from prune.embedded.generators import COLORS, NAMES, OBJECTS, PLACES, Item, Split, held_out

THINGS = [thing for thing in OBJECTS if thing != "box"]
"""Those whose plural is the word and an s."""
FOODS = "apples pears plums cookies nuts carrots lemons eggs muffins peaches".split()


def _shares(rng: random.Random) -> tuple[str, list[str], int, int]:
    name, friend = rng.sample(NAMES, 2)
    food, bags, each, gone = rng.choice(FOODS), rng.randint(2, 9), rng.randint(3, 12), rng.randint(1, 5)
    total = bags * each
    tale = (
        f"{name} buys {bags} bags of {food}. There are {each} {food} in every bag. {name} gives {gone} of them to "
        f"{friend}. How many {food} does {name} have left?"
    )
    steps = [
        f"{name} buys {bags} * {each} = {total} {food}.",
        f"After giving {gone} to {friend}, {name} has {total} - {gone} = {total - gone} {food} left.",
    ]
    return tale, steps, total - gone, 2


def _pays(rng: random.Random) -> tuple[str, list[str], int, int]:
    name = rng.choice(NAMES)
    (first, second), one, other, count = (
        rng.sample(THINGS, 2),
        rng.randint(2, 9),
        rng.randint(3, 15),
        rng.randint(2, 6),
    )
    cost = count * one + other
    purse = cost + rng.randint(1, 20)
    tale = (
        f"A {first} costs ${one} and a {second} costs ${other}. {name} has ${purse} and buys {count} {first}s and one "
        f"{second}. How many dollars does {name} have after that?"
    )
    steps = [
        f"The {first}s cost {count} * {one} = ${count * one}.",
        f"Together with the {second} that is {count * one} + {other} = ${cost}.",
        f"{name} has {purse} - {cost} = ${purse - cost} left.",
    ]
    return tale, steps, purse - cost, 3


def _walks(rng: random.Random) -> tuple[str, list[str], int, int]:
    name, place = rng.choice(NAMES), rng.choice(PLACES)
    far, days, extra = rng.randint(2, 9), rng.randint(3, 7), rng.randint(2, 9)
    both = 2 * far
    tale = (
        f"It is {far} miles from {name}'s home to the {place}. {name} walks there and back on {days} days, and another "
        f"{extra} miles on Sunday. How many miles does {name} walk in all?"
    )
    steps = [
        f"There and back is 2 * {far} = {both} miles.",
        f"On {days} days that makes {days} * {both} = {days * both} miles.",
        f"With Sunday it is {days * both} + {extra} = {days * both + extra} miles.",
    ]
    return tale, steps, days * both + extra, 3


def _sorts(rng: random.Random) -> tuple[str, list[str], int, int]:
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    (first, second), few, factor = rng.sample(COLORS, 2), rng.randint(3, 20), rng.randint(2, 6)
    tale = (
        f"{name} has {few} {first} {thing}s and {factor} times as many {second} {thing}s. How many {thing}s does "
        f"{name} have altogether?"
    )
    steps = [
        f"{name} has {factor} * {few} = {factor * few} {second} {thing}s.",
        f"Altogether that is {few} + {factor * few} = {few + factor * few} {thing}s.",
    ]
    return tale, steps, few + factor * few, 2


TALES: tuple[Callable[[random.Random], tuple[str, list[str], int, int]], ...] = (_shares, _pays, _walks, _sorts)


def word_problems(seed: int, split: Split) -> Iterator[Item]:
    """An endless stream of problems of one split; `difficulty` is the number of steps."""
    rng = random.Random(seed)
    while True:
        tale, steps, result, count = rng.choice(TALES)(rng)
        prompt = f"Question: {tale}\nAnswer:"
        if held_out(prompt) == (split == "eval"):
            yield Item(prompt, f" {' '.join(steps)}\n#### {result}", difficulty=count)
