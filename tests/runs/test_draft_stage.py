"""A run that makes a draft for speed: the stage, its use in place of the shallowest candidate, what the pair costs."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from evals.draft_trials import DraftResult
from prune.embedded import HERE
from prune.reporting.data import Draft
from prune.runs.costing import Speeds, put_pair_price
from prune.runs.directory import RunDirectory
from prune.runs.inputs import RunInputs
from prune.runs.outputs import read_draft
from prune.runs.recipe import load_recipe
from prune.runs.stages.draft import try_drafts
from prune.runs.verdict import CandidateKey

from .small import small_recipe

ARITHMETIC = HERE / "data/heal/arithmetic.jsonl"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(root, trials, stages done, stages kept the second time) of the two stages on a failing suite."""
    folder = tmp_path_factory.mktemp("draft")
    prompts = folder / "sums.jsonl"
    prompts.write_text("".join(line + "\n" for line in ARITHMETIC.read_text().splitlines()[:12]))
    train = {
        "prompts": {"math": "sums.jsonl"}, "keep_layers": "0,15", "num_prompts": 3, "max_new_tokens": 6,
        "num_train_epochs": 1.0, "speedup": 1.01, "on_policy_share": 0,
    }  # fmt: skip
    recipe = load_recipe(small_recipe(folder, draft={"train": train}))
    assert recipe.draft.train.prompts == {"math": str(prompts)}
    root = folder / "run"
    inputs = RunInputs(recipe, root)
    names = [suite.name for suite in inputs.suites]
    verdicts = {name: "FAIL" if name == "math" else "PASS" for name in names}
    evidence = SimpleNamespace(
        suites=[SimpleNamespace(name=name) for name in names],
        suite=lambda name: SimpleNamespace(verdict=verdicts[name]),
    )
    candidate = CandidateKey(14, "pruned")
    with RunDirectory(root, resume=False) as run:
        trials = try_drafts(inputs, run, {candidate: "hash"}, {candidate: evidence})
    with RunDirectory(root, resume=True) as again:
        try_drafts(inputs, again, {candidate: "hash"}, {candidate: evidence})
    return root, trials, run.redone, again.kept


def test_the_draft_that_was_made_is_tried_in_place_of_the_shallowest_candidate(made):
    root, trials, redone, kept = made
    assert redone == kept == ["draft-train", "draft"]
    assert trials.keys() == {"math"}
    assert trials["math"].key == CandidateKey(2, "trained")
    assert trials["math"].result.identical == trials["math"].result.prompts == 3
    assert (root / trials["math"].key.path / "model.safetensors").is_file()
    facts = json.loads((root / "draft" / "draft.json").read_text())
    assert (facts["keep"], facts["source"]) == ([0, 15], "embedded")
    assert facts["num_assistant_tokens"] == trials["math"].result.num_assistant_tokens
    assert not (root / "work" / "draft-train").exists()


def test_a_pair_costs_the_memory_of_both_and_the_price_of_its_own_speed(made):
    root, trials, *_ = made
    recipe = SimpleNamespace(cost=SimpleNamespace(price_per_hour=3.6))
    speeds = Speeds({"original": {"bytes": 1000}, "14": {"bytes": 800}})
    result: DraftResult = trials["math"].result
    made_here = put_pair_price(Draft(suite="math", result=result, num_layers=2, stage="trained"), speeds, recipe,
                               read_draft(root))  # fmt: skip
    own = read_draft(root)["memory"]["draft"]["bytes"]
    assert made_here.bytes == 1000 + own
    assert made_here.cost_per_million_tokens == pytest.approx(1000 / result.assisted_tokens_per_s)
    assert made_here.plain_cost_per_million_tokens == pytest.approx(1000 / result.plain_tokens_per_s)
    candidate = put_pair_price(Draft(suite="math", result=result, num_layers=14, stage="pruned"), speeds, recipe, None)
    assert candidate.bytes == 1800
