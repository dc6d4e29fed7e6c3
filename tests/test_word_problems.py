"""Word problems: every step of an answer is right, and the splits share no prompt."""

from __future__ import annotations

import itertools
import re

import pytest

from prune.embedded.generators import EVAL_SEED_BASE
from prune.embedded.word_problems import TALES, word_problems

STEP = re.compile(r"\$?(\d+) ([*+-]) (\d+) = \$?(\d+)")
OPERATIONS = {"*": int.__mul__, "+": int.__add__, "-": int.__sub__}


def _some(seed, split, count=400):
    return list(itertools.islice(word_problems(seed, split), count))


def test_every_step_is_right_and_the_last_one_gives_the_answer():
    for item in _some(0, "train"):
        steps = STEP.findall(item.completion)
        assert len(steps) == item.difficulty
        for left, sign, right, result in steps:
            assert OPERATIONS[sign](int(left), int(right)) == int(result)
        assert item.completion.endswith(f"\n#### {steps[-1][-1]}")
        assert int(steps[-1][-1]) >= 0


def test_training_and_evaluation_share_no_prompt():
    seen, held_out = (
        {item.prompt for item in _some(*arguments)} for arguments in ((0, "train"), (EVAL_SEED_BASE, "eval"))
    )
    assert not seen & held_out
    assert len(held_out) > 350


@pytest.mark.parametrize("kind", range(len(TALES)))
def test_every_kind_of_tale_occurs_in_both_splits(kind):
    asked = ("left?", "after that?", "in all?", "altogether?")[kind]
    for arguments in ((0, "train"), (EVAL_SEED_BASE, "eval")):
        assert any(asked in item.prompt for item in _some(*arguments))
