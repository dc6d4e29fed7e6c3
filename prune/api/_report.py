"""`prune.report`: write the report of a finished run again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def report(
    run: str | Path, *, lang: str | None = None, vllm_bench: Mapping[str, str | Path] | None = None
) -> dict[str, str]:
    """Write report.html, report.md and report.json of a finished run again; returns their paths.

    Args:
        run: the run directory.
        lang: `en` or `ja`; the recipe's if None.
        vllm_bench: `original` or a number of layers -> JSON of `vllm bench serve --save-result`; these speeds are then
            shown and priced instead of the run's own.

    Raises:
        UsageError, evals.errors.EvalUsageError: no finished run, an unknown language, or unusable benchmark files.
    """
    from prune.files import write_text
    from prune.reporting.page import render_html, render_markdown
    from prune.runs.recipe import load_recipe
    from prune.runs.report import assemble
    from prune.wording.text import Text

    root = Path(run)
    data = assemble(root, vllm_bench={name: str(path) for name, path in (vllm_bench or {}).items()})
    language = Text(lang or load_recipe(root / "recipe.yaml").report.lang).lang
    data.save(root / "report.json")
    write_text(root / "report.md", render_markdown(data, language))
    render_html(data, root / "report.html", language)
    return {kind: str(root / f"report.{kind}") for kind in ("html", "md", "json")}
