"""The demo that travels in the package: a small trained model, its data, its tasks and its recipes."""

from pathlib import Path

HERE = Path(__file__).resolve().parent
MODEL = HERE / "model"
RECIPE = HERE / "recipe.yaml"
REAL = HERE / "real.yaml"
"""Recipe of the demo on a real model; `{model}` stands for its directory."""
RECIPES = {"demo": RECIPE, "poc": HERE / "poc.yaml"}
"""Recipes that `prune run` knows by name."""
TASKS = HERE / "tasks"
SUITES = {path.stem: path for path in (HERE / "suites").glob("*.yaml")}
"""Suites of the demo's tasks that are known by name."""
