"""`prune.report`: write the report of a finished run again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from prune.errors import UsageError


def report(
    run: str | Path,
    *,
    lang: str | None = None,
    vllm_bench: Mapping[str, str | Path] | None = None,
    dry_run: bool = False,
) -> dict[str, str]:
    """Write report.html, report.md and report.json of a finished run again, or of steps run one by one.

    Returns their paths.

        prune.report("run", lang="ja")

    Args:
        run: the run directory; or one that holds what single steps wrote (an analysis, plans, evidence, checkpoints,
            each in a folder below); the report says what is missing.
        lang: `en` or `ja`; the recipe's if None, English without one.
        vllm_bench: `original` or a number of layers -> JSON of `vllm bench serve --save-result`; these speeds are then
            shown and priced instead of the run's own.
        dry_run: read and check everything, write nothing.

    Raises:
        UsageError, evals.errors.EvalUsageError: no finished run and no step's result, an unknown language, or unusable
            benchmark files.
    """
    from prune.runs.report import assemble, write_report

    root = Path(run)
    if not (root / "recipe.yaml").exists() and not (root / "state.json").exists():
        from prune.runs.by_hand import collect

        if vllm_bench:
            raise UsageError("--vllm_bench: goes with a finished `prune run`, whose costs it replaces")
        if not root.is_dir():
            raise UsageError(f"{root}: no such directory")
        return write_report(root, collect(root, lang or "en"), lang or "en", dry_run=dry_run)
    data = assemble(root, vllm_bench={name: str(path) for name, path in (vllm_bench or {}).items()})
    return write_report(root, data, lang or data.lang, dry_run=dry_run)
