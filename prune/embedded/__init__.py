"""The demo that travels in the package: a small trained model, its data, its tasks and its recipes."""

from pathlib import Path

HERE = Path(__file__).resolve().parent
MODEL = HERE / "model"
RECIPE = HERE / "recipe.yaml"
RECIPES = {"demo": RECIPE, "poc": HERE / "poc.yaml"}
"""Recipes that `prune run` knows by name."""
