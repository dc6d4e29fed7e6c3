"""Errors that leave a run name what a run has: keys of the recipe and its own flags."""

from __future__ import annotations

import pytest

from evals.errors import EvalError
from prune.runs.cures import in_a_run, recipe_words


@pytest.mark.parametrize(
    ("said", "in_a_run"),
    [
        ("give --teacher the original model", "give model the original model"),
        ("give --local_data a folder that holds it", "give eval.local_data a folder that holds it"),
        ("Give --gen_kwargs max_gen_toks=N a smaller N", "Give eval.gen_kwargs max_gen_toks=N a smaller N"),
        ("go on with --resume_from_checkpoint from it", "go on with --resume from it"),
        ("lower --learning_rate", "lower heal.learning_rate"),
        ("another --seed", "another seed or heal.seed"),
        ("--data general: row 5 is no text", "domains general: row 5 is no text"),
        ("add --resume to go on, `prune import FILE.gguf --dtype x` first", None),
    ],
)
def test_flags_become_keys_of_the_recipe(said: str, in_a_run: str | None) -> None:
    assert recipe_words(said) == (said if in_a_run is None else in_a_run)


def test_an_error_that_leaves_a_run_is_reworded_and_keeps_its_class() -> None:
    with pytest.raises(EvalError, match=r"eval\.batch_size") as caught, in_a_run():
        raise EvalError("use a smaller --batch_size")
    assert "--" not in caught.value.flagged
