"""What the commands print: tables on a terminal, plain lines elsewhere, JSON when asked for."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from evals.secrets import redacted
from evals.visible import visible
from prune.data.account import COLUMNS, account
from prune.shown import shown


def emit(value: dict[str, Any], lines: Sequence[str], *, as_json: bool, quiet: bool) -> None:
    """Print a result in the form that was asked for."""
    if as_json:
        print(visible(json.dumps(redacted(value), indent=2, ensure_ascii=False, default=str)))
    elif not quiet:
        for line in lines:
            print(shown(line))


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, quiet: bool) -> None:
    """A Rich table on a terminal, tab-separated lines elsewhere; a cell is literal text, without markup."""
    if quiet:
        return
    if not sys.stdout.isatty():
        print("\t".join(map(shown, columns)))
        for row in rows:
            print("\t".join(map(shown, row)))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(title=Text(shown(title)))
    for column in columns:
        grid.add_column(Text(shown(column)))
    for row in rows:
        grid.add_row(*(Text(shown(cell)) for cell in row))
    Console().print(grid)


def data_used(described: Mapping[str, Any], warnings: Sequence[str], *, quiet: bool) -> None:
    """How much of each domain was used, and what to beware of: once, above the result.

    Args:
        described: domain -> what `Domain.describe` gives.
        warnings: sentences.
    """
    table("data", COLUMNS, account(described), quiet=quiet)
    estimated = [name for name, row in described.items() if "estimated_from" in row]
    if estimated and not quiet:
        first = described[estimated[0]]["estimated_from"]
        print(shown(f"{', '.join(estimated)}: counts are estimates from {first} documents; a run tokenises all"))
    for warning in () if quiet else warnings:
        print(shown(f"warning: {warning}"))


class _Clock(logging.Handler):
    """Stages of a run on standard error, each with the seconds since the start."""

    def __init__(self) -> None:
        super().__init__()
        self.began = time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        print(
            f"[{time.monotonic() - self.began:6.1f} s] {shown(record.getMessage())}",
            file=sys.stderr,
            flush=True,
        )


def follow(quiet: bool) -> None:
    """Show the log of a run on standard error as it happens."""
    if not quiet:
        logger = logging.getLogger("prune")
        logger.addHandler(_Clock())
        logger.setLevel(logging.INFO)


def summary(data: Any) -> tuple[list[str], list[list[str]]]:
    """The table of a run: one row per candidate; the README's demo section shows these figures."""
    suites = [name for name in data.suites if any(name in c.suites for c in data.candidates)]
    heads = {name: _head(data, name) for name in suites}
    known = {task.name for c in data.candidates for s in c.evidence for task in _alone(s.tasks)}
    texts = sorted({name for c in data.candidates for name in c.bits_per_byte} - known)
    columns = [
        "layers",
        "stage",
        *heads.values(),
        *(f"bits/byte {t}" for t in texts),
        "parameters",
        "MB",
        "decode tokens/s",
    ]
    rows = []
    for c in data.candidates:
        scores = [number(c.suites[s].value) if s in c.suites else "-" for s in suites]
        verdicts = [f" {c.suites[s].verdict}" if s in c.suites and c.suites[s].verdict else "" for s in suites]
        rows.append(
            [
                str(c.num_layers),
                c.stage,
                *(a + b for a, b in zip(scores, verdicts, strict=True)),
                *(number(c.bits_per_byte.get(t)) for t in texts),
                f"{c.parameters:,}",
                f"{c.bytes / 1e6:.2f}",
                f"{c.decode_tokens_per_s:.0f}",
            ]
        )
    return columns, rows


def _head(data: Any, suite: str) -> str:
    """A suite's name, with its unit where it is no share."""
    score = next(c.suites[suite] for c in data.candidates if suite in c.suites)
    if score.is_share:
        return suite
    return f"{suite} ({'bits/byte' if score.metric == 'bits_per_byte' else score.metric})"


def _alone(tasks: Sequence[Any]) -> list[Any]:
    """The one task that a suite's score is, if it is one task's."""
    gated = [task for task in tasks if not task.report_only]
    return gated if len(gated) == 1 else []


def number(value: float | None) -> str:
    """Three decimals, or a dash for what was not measured."""
    return "-" if value is None else f"{value:.3f}"


def listed(values: Any) -> str:
    """Values with commas."""
    return ", ".join(map(str, values))
