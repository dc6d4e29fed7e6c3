"""Healing inside a run: self-generated data and several rounds, on the embedded model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from transformers import TrainerCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

import prune
from prune.embedded import HERE, MODEL, RECIPE
from prune.errors import PruneError, UsageError
from prune.model.loading import load_model
from prune.runs.recipe import load_recipe
from prune.runs.stages.heal import round_depths


def recipe_file(directory: Path, **heal) -> Path:
    """The demo's recipe on a few documents and items, one suite, one depth."""
    recipe = yaml.safe_load(RECIPE.read_text(encoding="utf8"))
    for domains in (recipe["data"]["domains"], recipe["heal"]["domains"]):
        for name, path in domains.items():
            domains[name] = str(HERE / path)
    recipe["data"]["calib_num_samples"] = 4
    recipe["analyze"] = {"bootstrap": 10, "measure": ["contributions"]}
    recipe["plan"] |= {"depths": [13], "criterion": "block_influence", "strategy": "one_shot", "protect": [0]}
    small = {"max_steps": 3, "per_device_train_batch_size": 4, "eval_max_documents": 8, "learning_rate": 3e-4}
    recipe["heal"] |= small | heal
    task = {"task": "demo_story_facts", "metric": "acc", "chance": 0.25}
    recipe["eval"] = {
        "include_path": [str(HERE / "tasks")], "limit": 4,
        "suites": [{"name": "general", "floor": 0.01, "tasks": [task]}],
    }  # fmt: skip
    recipe["cost"] |= {"prompt_tokens": 8, "new_tokens": 2, "repeats": 1, "batch_size": 1}
    recipe["draft"] = {"enabled": False}
    recipe["export"]["override"] = "a test run"
    path = directory / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf8")
    return path


OWN_ANSWERS = {
    "self_generated": {
        "prompts": {"answers": str(HERE / "data/heal/arithmetic.jsonl")}, "num_prompts": 12, "max_new_tokens": 8
    },
    "domain_weights": {"stories": 0.2, "arithmetic": 0.3, "answers": 0.5},
    "track": 2,
    "max_steps": 8,
    "report_to": ["tensorboard"],
}  # fmt: skip


class Tracker(TrainerCallback):
    """Writes where TensorBoard's callback writes, which need not be installed here."""

    def on_train_begin(self, args, state, control, **_):
        written = Path(args.output_dir) / "runs" / "now" / "events"
        written.parent.mkdir(parents=True)
        written.write_text("logged")


@pytest.fixture(scope="module", autouse=True)
def tracker():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(INTEGRATION_TO_CALLBACK, "tensorboard", Tracker)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run with two rounds and self-generated answers beside the recipe's domains: (recipe, root, result)."""
    directory = tmp_path_factory.mktemp("stages")
    recipe = recipe_file(directory, rounds=2, **OWN_ANSWERS)
    return recipe, directory / "run", prune.run(recipe, directory / "run")


def test_the_originals_answers_are_generated_once_and_trained_on(finished):
    _, root, result = finished
    assert "generate" in result.redone
    rows = [json.loads(line) for line in (root / "generated/answers.jsonl").read_text().splitlines()]
    assert len(rows) == 12
    healing = json.loads((root / "healed/13/healing.json").read_text())
    assert healing["data"]["answers"]["weight"] == 0.5
    assert healing["data"]["answers"]["documents"] == 12


def test_the_gates_tasks_are_tracked(finished):
    _, root, _ = finished
    history = json.loads((root / "healed/13/healing.json").read_text())["history"]
    scores = [e["eval_demo_story_facts"] for e in history if "eval_loss" in e]
    assert len(scores) >= 2
    assert all(0 <= s <= 1 for s in scores)


def test_what_a_tracker_wrote_outlives_the_scratch_of_its_stage(finished):
    _, root, _ = finished
    assert sorted(p.relative_to(root).as_posix() for p in root.glob("tracking/**/events")) == [
        "tracking/heal-13/now/events",
        "tracking/round-13-1/now/events",
    ]


def test_each_round_removes_its_part_and_the_steps_are_shared_out(finished):
    _, root, _ = finished
    first, second = (json.loads((root / f"rounds/13/{i}/plan.json").read_text()) for i in (1, 2))
    assert [len(first["keep"]), len(second["keep"])] == [14, 13]
    assert set(first["drop"]) < set(second["drop"])
    assert 0 in second["keep"]
    assert second["num_layers"] == 16
    steps = [json.loads((root / p / "healing.json").read_text())["settings"]["max_steps"]
             for p in ("rounds/13/1/model", "healed/13")]  # fmt: skip
    assert steps == [4, 4]


@torch.no_grad()
def test_the_second_cut_is_the_first_healed_model_without_those_layers(finished):
    from prune.surgery.loaded import drop_layers

    _, root, _ = finished
    first, second = (json.loads((root / f"rounds/13/{i}/plan.json").read_text()) for i in (1, 2))
    dropped = [first["keep"].index(layer) for layer in second["drop"] if layer not in first["drop"]]
    ids = torch.randint(2, 2000, (2, 12), generator=torch.Generator().manual_seed(0))
    healed = load_model(str(root / "rounds/13/1/model"))
    original = load_model(str(MODEL))
    last = original.model.layers[first["keep"][-1]]
    assert not torch.equal(healed.model.layers[-1].mlp.up_proj.weight, last.mlp.up_proj.weight)
    expected = drop_layers(healed, dropped)(ids).logits
    assert torch.equal(load_model(str(root / "rounds/13/2/model"))(ids).logits, expected)


def test_the_export_tells_the_healed_candidates_own_layers(finished):
    _, root, result = finished
    manifest = json.loads((root / "export/prune_manifest.json").read_text())
    plan = root / ("rounds/13/2/plan.json" if result.choice.key.stage == "healed" else "plans/13.json")
    assert manifest["plan"]["drop"] == json.loads(plan.read_text())["drop"]
    report = json.loads((root / "report.json").read_text())
    healed = next(c for c in report["candidates"] if c["stage"] == "healed")
    assert healed["drop"] == json.loads((root / "rounds/13/2/plan.json").read_text())["drop"]


def test_a_resumed_run_keeps_every_stage_and_leaves_no_scratch(finished):
    recipe, root, _ = finished
    result = prune.run(recipe, root, resume=True)
    assert {"generate", "round-13-1", "round-13-2", "heal-13"} <= set(result.kept)
    assert not [p for p in (root / "work").rglob("*") if p.is_file()]


def test_rounds_on_the_command_line_are_the_recipes_rounds(finished, tmp_path, capsys):
    from prune.cli.app import build

    _, root, _ = finished
    recipe = str(recipe_file(tmp_path, **OWN_ANSWERS))
    arguments = ["run", recipe, "-o", str(root), "--resume", "--rounds", "2", "--json"]
    build(arguments)(arguments, standalone_mode=False)
    kept = json.loads(capsys.readouterr().out)["kept"]
    assert {"round-13-1", "round-13-2", "heal-13"} <= set(kept)
    with pytest.raises(UsageError, match="4 rounds cannot share out the 3 layers"):
        prune.run(recipe, tmp_path / "run", rounds=4, dry_run=True)
    with pytest.raises(UsageError, match="rounds 0: give 1 or more"):
        prune.run(recipe, tmp_path / "run", rounds=0)


def test_depths_of_rounds_are_as_equal_as_can_be():
    assert round_depths(16, 10, 3) == [14, 12, 10]
    assert round_depths(16, 13, 2) == [14, 13]
    assert round_depths(16, 10, 1) == [10]
    with pytest.raises(UsageError, match="4 rounds cannot share out the 3 layers"):
        round_depths(16, 13, 4)


@pytest.mark.parametrize(
    ("heal", "message"),
    [
        ({"self_generated": {"prompts": {"stories": "a.jsonl"}}}, "both name stories"),
        ({"self_generated": {"prompts": {}}}, "prompts"),
        ({"self_generated": {"prompts": {"a": "a.jsonl"}, "temperature": 0.5}}, "do nothing without do_sample"),
        ({"domain_weights": {"answers": 1}}, "heal.domain_weights names the domain 'answers'"),
        ({"domain_weights": {"stories": -1}}, r"heal.domain_weights.stories: .* greater than or equal to 0"),
        ({"domain_weights": {"stories": float("nan")}}, r"heal.domain_weights.stories: .* finite number"),
        ({"domain_weights": {"stories": 0}}, "heal.domain_weights: at least one weight must be above zero"),
        ({"rounds": 0}, "heal.rounds"),
    ],
)
def test_a_mistake_in_the_recipe_is_named(tmp_path, heal, message):
    with pytest.raises(UsageError, match=message):
        load_recipe(recipe_file(tmp_path, **heal))


@pytest.mark.parametrize(
    ("heal", "message"),
    [
        ({"lr_scheduler_type": "sometimes"}, "lr_scheduler_type"),
        ({"report_to": ["papyrus"]}, "report_to"),
        ({"lora_layers": [13]}, r"heal.lora_layers \[13\]: the model cut to 13 layers has the layers 0 to 12"),
        ({"lora_target_modules": ["nothing"]}, "does not fit this model"),
        ({"domains": {"short": "short.jsonl"}, "domain_weights": {}}, "domains short: 1 of 1 documents"),
        ({"domains": {"foreign": "foreign.jsonl"}, "domain_weights": {}}, "document 0 holds token id 2048"),
    ],
)
def test_what_healing_would_refuse_is_said_before_the_analysis(tmp_path, heal, message):
    (tmp_path / "short.jsonl").write_text('{"text": "Once upon a time"}')
    (tmp_path / "foreign.jsonl").write_text('{"input_ids": [1, 2048]}\n' * 4)
    recipe = recipe_file(tmp_path)
    values = yaml.safe_load(recipe.read_text())
    values["heal"] |= heal
    recipe.write_text(yaml.safe_dump(values))
    for dry_run in (True, False):
        with pytest.raises(PruneError, match=message):
            prune.run(recipe, tmp_path / "run", dry_run=dry_run)
    assert not (tmp_path / "run").exists()


def test_training_documents_are_as_long_as_the_rows_of_training_whatever_the_analysis_reads(tmp_path):
    recipe = recipe_file(tmp_path, max_length=120)
    values = yaml.safe_load(recipe.read_text())

    def longest(seq_length):
        recipe.write_text(yaml.safe_dump(values | {"data": values["data"] | {"seq_length": seq_length}}))
        found = prune.run(recipe, tmp_path / "run", dry_run=True)
        return found["data"]["stories"]["tokens"], found["healing_data"]["stories"]["tokens"]

    (few, trained), (many, same) = longest(20), longest(160)
    assert few < many
    assert trained == same
