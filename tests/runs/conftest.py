"""One finished run that several files look at."""

from __future__ import annotations

import pytest
import yaml

import prune

from .small import small_recipe


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A finished run: (recipe, run directory, result). All but math pass at floor 0.01, so that something ships."""
    directory = tmp_path_factory.mktemp("pipeline")
    recipe = small_recipe(directory)
    text = yaml.safe_load(recipe.read_text())
    for suite in text["eval"]["suites"]:
        suite["floor"] = 1.0 if suite["name"] == "math" else 0.01
    recipe.write_text(yaml.safe_dump(text))
    return recipe, directory / "run", prune.run(recipe, directory / "run")
