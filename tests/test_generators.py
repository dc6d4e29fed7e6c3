"""The demo's items: right answers, lm-eval's wording, and no item of the evaluation split in training."""

from __future__ import annotations

import importlib.util
import itertools
import json
import re

import pytest
import yaml

from prune.embedded import HERE
from prune.embedded.generators import (
    EVAL_SEED_BASE,
    GENERATORS,
    distinct_items,
    held_out,
    items,
    story_question,
    story_questions,
)
from tests.conftest import REPOSITORY

DATA = HERE / "data"


def read(name: str) -> list[dict]:
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf8").splitlines()]


def builder():
    spec = importlib.util.spec_from_file_location("build_demo_data", REPOSITORY / "scripts" / "build_demo_data.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", [n for n in GENERATORS if n.startswith("arithmetic")])
def test_arithmetic_answers_are_right(name):
    for item in itertools.islice(items(name, 3, "train"), 300):
        expression = re.fullmatch(r"Question: What is (.+)\?\nAnswer:", item.prompt)[1]
        value = eval(expression.replace("plus", "+").replace("minus", "-"), {"__builtins__": {}})
        assert item.completion == f" {value}"


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_chain_answers_are_right(steps):
    for item in itertools.islice(items("chain", 3, "train", steps=steps), 200):
        *assignments, last = item.prompt.split(";")
        values: dict[str, int] = {}
        for assignment in assignments:
            name, expression = assignment.split("=")
            values[name] = eval(expression, {"__builtins__": {}}, values)
        assert len(assignments) == steps + 1
        assert str(values[last.removesuffix("=")]) == item.completion


def test_story_questions_have_one_right_choice_that_the_story_states():
    for item in itertools.islice(items("story", 3, "train"), 300):
        assert len(set(item.choices)) == 4
        assert item.choices.count(item.completion) == 1
        assert item.completion.strip() in item.prompt


@pytest.mark.parametrize("name", list(GENERATORS))
def test_no_evaluation_prompt_is_ever_generated_for_training(name):
    files = ["story_questions", "story_facts"] if name == "story" else [name]
    shipped = {r["context"] for file in files for r in read(f"eval/{file}.jsonl")}
    fresh = {i.prompt for i in distinct_items(name, EVAL_SEED_BASE, 300)}
    # The seeds that scripts/train_demo_model.py uses: 100 * (seed + steps done) + number of the task.
    trained = {
        i.prompt
        for seed in (100 + list(GENERATORS).index(name), 900, 901, 100_100)
        for i in itertools.islice(items(name, seed, "train"), 20_000)
    }
    assert all(held_out(prompt) for prompt in shipped | fresh)
    assert not trained & (shipped | fresh)


def test_training_stories_with_many_questions_never_put_an_evaluation_prompt():
    import random

    rng = random.Random(8)
    shipped = {r["context"] for f in ("story_questions", "story_facts") for r in read(f"eval/{f}.jsonl")}
    for _ in range(3000):
        pieces = story_questions(rng)
        if not pieces:  # every question about this story is held out
            continue
        story = pieces[0][0].split("\nQuestion:")[0]
        for prompt, _ in pieces:
            own = story + prompt[prompt.index("\nQuestion:") :]
            assert not held_out(own)
            assert own not in shipped


def test_a_seed_of_the_other_split_is_refused():
    with pytest.raises(ValueError, match="seed 5 does not belong to the eval split"):
        next(items("chain", 5, "eval"))


def test_the_wording_is_that_of_lm_evals_arithmetic_tasks():
    from lm_eval.tasks.arithmetic import utils

    raw = {"context": "\n\nQ: What is 98 plus 45?\n\nA:", "completion": " 143"}

    class Rows(list):
        def map(self, function):
            return [function(row) for row in self]

    processed = utils.process_docs(Rows([raw]))[0]
    ours = next(i for i in items("arithmetic_2da", 0, "train"))
    assert re.sub(r"\d+", "N", processed["context"]) == re.sub(r"\d+", "N", ours.prompt)


def test_shipped_items_are_what_the_generators_give():
    for name, rows in builder().item_files().items():
        assert read(name) == rows, name


def test_openings_are_many_different_and_begin_no_story_that_is_trained_or_planned_on():
    openings = [row["text"] for row in read("eval/openings.jsonl")]
    seen = [row["text"] for use in ("calibration", "heal") for row in read(f"{use}/stories.jsonl") if "text" in row]
    assert len(set(openings)) == len(openings) == builder().OPENINGS
    assert not [text for text in openings if any(story.startswith(text) for story in seen)]
    assert {len(text) for text in openings} <= set(range(100, 181))


def test_the_gate_can_pass_the_openings_and_could_not_pass_sixty_stories():
    from evals.power import power_check
    from evals.suite import Suite

    recipe = yaml.safe_load((HERE / "recipe.yaml").read_text(encoding="utf8"))
    language = Suite(**next(suite for suite in recipe["eval"]["suites"] if suite["name"] == "language"))
    (gated,) = language.gated

    def decides(count):
        return power_check(language, None, sizes={gated.key: count}, suites=3).decides

    assert gated.task == "demo_openings"
    assert decides(len(read("eval/openings.jsonl")))
    assert not decides(len(read("eval/stories.jsonl")))


def test_story_generator_is_reproducible():
    import random

    assert story_question(random.Random(4)) == story_question(random.Random(4))
