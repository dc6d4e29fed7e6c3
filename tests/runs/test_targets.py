"""A recipe that heals from kept predictions: without the original, and refused where they are of something else."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
import yaml

import prune
from prune.embedded import HERE
from prune.errors import GateFailed, UsageError
from prune.packaging.saving import HEALING

from .small import small_recipe

DATA = {name: HERE / f"data/heal/{name}.jsonl" for name in ("stories", "arithmetic")}


def few(folder: Path) -> dict[str, str]:
    """The first documents of the demo's training data."""
    for name, path in DATA.items():
        rows = path.read_text(encoding="utf8").splitlines(keepends=True)[:16]
        (folder / f"{name}.jsonl").write_text("".join(rows), encoding="utf8")
    return {name: str(folder / f"{name}.jsonl") for name in DATA}


def recipe_of(tmp_path: Path, **heal: object) -> Path:
    suites = [{"name": "math", "tasks": [{"task": "demo_arithmetic_2da", "metric": "acc"}]}]
    changes = {"eval": {"suites": suites, "limit": 4}, "draft": {"enabled": False}}
    return small_recipe(tmp_path, heal=heal, **changes)


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("taught")
    prune.teach("embedded", folder / "targets", data=few(folder), top_k=16, max_length=160)
    return folder / "targets"


def test_targets_of_other_data_length_or_objective_are_refused_before_anything_runs(
    tmp_path: Path, targets: Path
) -> None:
    cases = {
        "max_length was 160 and is 128": {"targets": str(targets), "max_length": 128},
        "heal.targets: nothing is distilled": {"targets": str(targets), "distill_weight": 0.0},
        "temperature 2": {"targets": str(targets), "temperature": 2.0},
        "no targets.json there": {"targets": str(tmp_path)},
        "data words: was not taught": {
            "targets": str(targets), "domain_weights": {},
            "domains": {"words": str(HERE / "data/heal/stories.jsonl")},
        },
    }  # fmt: skip
    for message, heal in cases.items():
        asked = {"domains": few(tmp_path), **heal}
        with pytest.raises(UsageError, match=message.replace("data words: ", "data: ")):
            prune.run(recipe_of(tmp_path, **asked), tmp_path / "run", dry_run=True)
    generated = {
        "domains": few(tmp_path),
        "targets": str(targets),
        "self_generated": {"prompts": {"own": str(HERE / "data/heal/stories.jsonl")}},
    }
    with pytest.raises(UsageError, match="targets and self_generated: what will be generated was not taught"):
        prune.run(recipe_of(tmp_path, **generated), tmp_path / "run", dry_run=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_heals_from_targets(tmp_path: Path, targets: Path) -> None:
    recipe = recipe_of(tmp_path, targets=str(targets), domains=few(tmp_path))
    with contextlib.suppress(GateFailed):
        prune.run(recipe, tmp_path / "run")
    record = json.loads((tmp_path / "run/healed/14" / HEALING).read_text())
    assert record["targets"]["top_k"] == 16
    assert record["teacher"] == record["targets"]["model"]
    assert record["shared_bytes"] == 0  # no original was there to share with
    assert record["history"][1]["distill_loss"] > 0
    text = yaml.safe_load((tmp_path / "run/recipe.yaml").read_text())
    assert text["heal"]["targets"] == str(targets)
