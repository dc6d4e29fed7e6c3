"""`prune eval`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from prune.api._eval import EvalArguments
from prune.cli.commands.suites import listing
from prune.cli.flags import DryRun, Json, Model, Output, Quiet, with_settings
from prune.cli.show import emit, number, table

if TYPE_CHECKING:
    from evals.evidence import Evidence


def evaluate(
    model: Model,
    output: Output,
    baseline: Annotated[str, typer.Option("--baseline", help="The original model.")],
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
    **settings: Any,
) -> int:
    """Test a model against its original, and judge it: exit code 3 when the gate does not pass."""
    from prune import api

    asked: dict[str, Any] = {**settings, "dry_run": dry_run}
    result = api.eval(model, output, baseline=baseline, **asked)
    if isinstance(result, api.DryRun):
        planned = [f"would run {name}: {', '.join(tasks)}" for name, tasks in result["suites"].items()]
        emit(result, planned + result["notes"] + result["gate_power"], as_json=as_json, quiet=quiet)
        return 0
    _show(result, as_json, quiet)
    if not as_json:
        said = [*_answers(result), *_remarks(result), f"written: {output} ({result.overall})"]
        emit({}, said, as_json=False, quiet=quiet)
    return 0 if result.overall == "PASS" else 3


def _show(result: Any, as_json: bool, quiet: bool) -> None:
    if as_json:
        emit(result.model_dump(mode="json"), [], as_json=True, quiet=quiet)
        return
    from prune.wording import message
    from prune.wording.message import ends
    from prune.wording.text import english

    rows = [
        [
            found.name,
            number(found.original),
            number(found.candidate),
            english(message("share_kept", share=found.retention)),
            english(ends(found.retention_lo, found.retention_hi)) if found.retention is not None else "-",
            found.verdict,
        ]
        for found in result.suites
    ]
    table("Gate", ["suite", "original", "candidate", "retention", "interval", "verdict"], rows, quiet=quiet)


def _answers(result: Evidence) -> list[str]:
    """Of every task that generates, what an answer takes, and what a correct one does: speed alone may flatter."""
    lines = []
    for task in (task for suite in result.suites for task in suite.tasks):
        if (found := task.answers) is None or found.ratio is None or found.ratio_lo is None or found.ratio_hi is None:
            continue
        both = found.candidate_per_correct, found.original_per_correct
        right = ["none" if tokens is None else f"{tokens:,.1f}" for tokens in both]
        lines.append(
            f"{task.name}: {found.candidate_tokens:.1f} tokens an answer, {found.ratio:.2f} x the original's"
            f" ({found.ratio_lo:.2f}-{found.ratio_hi:.2f}); for each correct one {right[0]}, the original's {right[1]}"
        )
    return lines


def _remarks(result: Evidence) -> list[str]:
    """Why a suite has no figures, and how many items would settle one that is undecided."""
    lines = [f"{found.name}: {found.note}" for found in result.suites if found.note]
    if result.original_backend != result.candidate_backend:
        lines.append(f"answered by {result.original_backend} (original) and {result.candidate_backend} (candidate)")
    elif result.candidate_backend and not result.candidate_backend.startswith("transformers"):
        lines.append(f"answered by {result.candidate_backend}")
    return lines + [
        f"{found.name}: about {found.items_needed:,} items would decide it; {found.n:,} were compared"
        for found in result.suites
        if found.items_needed
    ]


epilog = listing
command = with_settings(EvalArguments)(evaluate)
