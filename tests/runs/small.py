"""The demo's recipe, made small."""

from __future__ import annotations

from pathlib import Path

import yaml

from prune.embedded import HERE, RECIPE


def small_recipe(directory: Path, **changes) -> Path:
    """The demo's recipe with one depth, a few healing steps and a few items."""
    recipe = yaml.safe_load(RECIPE.read_text(encoding="utf8"))
    for domains in (recipe["data"]["domains"], recipe["heal"]["domains"]):
        for name, path in domains.items():
            domains[name] = str(HERE / path)
    recipe["data"]["calib_num_samples"] = 6
    recipe["analyze"]["bootstrap"] = 50
    recipe["plan"]["depths"] = [14]
    recipe["heal"] |= {"max_steps": 3, "per_device_train_batch_size": 4, "eval_max_documents": 4}
    recipe["eval"] |= {"include_path": [str(HERE / "tasks")], "limit": 12}
    recipe["cost"] |= {"prompt_tokens": 8, "new_tokens": 4, "repeats": 1, "batch_size": 1}
    recipe["draft"] = {"prompts": 3, "max_new_tokens": 4}
    recipe["export"]["override"] = "a test run"
    for section, values in changes.items():
        recipe[section] |= values
    path = directory / "small.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf8")
    return path
