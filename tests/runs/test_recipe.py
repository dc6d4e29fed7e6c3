"""Recipes: unknown keys are refused with the nearest name, paths follow the file, and YAML makes the round trip."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from evals.errors import EvalUsageError
from prune.embedded import RECIPE, RECIPES
from prune.errors import UsageError
from prune.runs.inputs import resolve_suites
from prune.runs.pipeline import changed_fields
from prune.runs.recipe import dump_recipe, load_recipe

MINIMAL = """
model: embedded
data: {domains: {general: a.txt}}
plan: {depths: [12]}
eval: {suites: [general]}
"""


def test_the_demo_recipe_loads_and_its_files_exist():
    recipe = load_recipe(RECIPE)

    files = [*recipe.data.domains.values(), *recipe.heal.domains.values(), *recipe.eval.include_path]
    assert all(Path(f).exists() for f in files)
    assert [s.name for s in resolve_suites(recipe.eval.suites, "full")] == ["general", "language", "math"]


def test_a_recipe_makes_the_round_trip(tmp_path):
    recipe = load_recipe(RECIPE)
    (tmp_path / "again.yaml").write_text(dump_recipe(recipe), encoding="utf8")
    assert load_recipe(tmp_path / "again.yaml") == recipe


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MINIMAL.replace("plan:", "plann:"), "'plann' .did you mean 'plan'"),
        (MINIMAL.replace("depths", "depht"), "plan.depht: 'depht' .did you mean 'depths'"),
        (MINIMAL + "dephts: [12]", "unknown key dephts: did you mean plan.depths\\?"),
        (MINIMAL + "lora_r: 8", "unknown key lora_r: did you mean heal.lora_r\\?"),
        (MINIMAL + "heal: {lora_rank: 3}", "heal.lora_rank: 'lora_rank' .did you mean 'lora_r"),
        (MINIMAL.replace("[12]", "[]"), "plan.depths"),
        (MINIMAL.replace("[12]", "[0]"), "plan.depths.0"),
        (MINIMAL.replace("depths: [12]", "depths: [12], domain_weights: {genral: 1}"), "did you mean 'general'"),
        ("[1, 2]", "mapping"),
        ("a: [", "not YAML"),
    ],
)
def test_a_mistake_is_named(tmp_path, text, message):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        load_recipe(path)
    assert "recipe.yaml" in str(caught.value)


def test_changed_fields_are_named():
    old = "heal: {max_steps: 100, lora_r: 8}\nseed: 0\n"
    new = "heal: {max_steps: 200, lora_r: 8}\nseed: 0\n"
    assert list(changed_fields(old, new)) == ["heal.max_steps: 100 -> 200"]


def test_the_staged_recipe_screens_more_depths_than_it_confirms():
    recipe = load_recipe(RECIPES["poc"])
    assert recipe.screen is not None
    assert recipe.screen.confirm < len(recipe.plan.depths)
    assert Path(recipe.data.domains["stories"]).is_file()


def test_looks_that_do_not_increase_are_refused(tmp_path):
    values = yaml.safe_load(RECIPES["poc"].read_text(encoding="utf8"))
    values["screen"]["looks"] = [50, 50]
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf8")
    with pytest.raises(UsageError, match=r"looks \[50, 50\] must increase"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (MINIMAL.encode("utf-16"), "is UTF-16 .as PowerShell's > writes it., not UTF-8: save it as UTF-8"),
        (f"# déjà vu{MINIMAL}".encode("latin-1"), r"is not UTF-8 text \(byte 0xe9 in line 1\): save it as UTF-8"),
        (MINIMAL.replace("a.txt", '"\\uD83D.txt"').encode(), "data: domains: general holds half of a character"),
    ],
)
def test_a_recipe_that_is_not_text_is_named(tmp_path, raw, message):
    (tmp_path / "mine.yaml").write_bytes(raw)
    with pytest.raises((UsageError, EvalUsageError), match=rf"mine\.yaml:? {message}|mine\.yaml: {message}"):
        load_recipe(tmp_path / "mine.yaml")


def test_a_recipe_with_a_byte_order_mark_is_read(tmp_path):
    (tmp_path / "mine.yaml").write_bytes(f"\ufeff{MINIMAL}".encode())
    assert load_recipe(tmp_path / "mine.yaml").plan.depths == [12]
