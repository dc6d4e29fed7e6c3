"""`prune.report`: write the report of a finished run again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def report(
    run: str | Path,
    *,
    lang: str | None = None,
    vllm_bench: Mapping[str, str | Path] | None = None,
    dry_run: bool = False,
) -> dict[str, str]:
    """Write report.html, report.md and report.json of a finished run again; returns their paths.

        prune.report("run", lang="ja")

    Args:
        run: the run directory.
        lang: `en` or `ja`; the recipe's if None.
        vllm_bench: `original` or a number of layers -> JSON of `vllm bench serve --save-result`; these speeds are then
            shown and priced instead of the run's own.
        dry_run: read and check everything, write nothing.

    Raises:
        UsageError, evals.errors.EvalUsageError: no finished run, an unknown language, or unusable benchmark files.
    """
    from prune.runs.report import assemble, write_report

    root = Path(run)
    data = assemble(root, vllm_bench={name: str(path) for name, path in (vllm_bench or {}).items()})
    return write_report(root, data, lang or data.lang, dry_run=dry_run)
