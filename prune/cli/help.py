"""The help of a command: as wide as the terminal, its flags in groups, the usual ones first.

On a wide terminal Typer draws the groups as Rich tables. A narrow table would cut long flag names off, so there the
same groups are plain lists; Typer's own plain help knows no groups.
"""

from __future__ import annotations

import shutil
from typing import Any

from typer.core import TyperCommand

WIDE = 120
"""Columns from which the help is a Rich table."""


def columns() -> int:
    """Width of the terminal; 80 where there is none."""
    return shutil.get_terminal_size().columns


class GroupedCommand(TyperCommand):
    """A command whose plain help has a section for every group of flags."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Arguments, then the flags of no group, then each group in the order of its first flag."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is None:
                continue
            usual = "Arguments" if parameter.param_type_name == "argument" else "Options"
            sections.setdefault(getattr(parameter, "rich_help_panel", None) or usual, []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """What follows the flags, paragraph by paragraph."""
        if self.epilog:
            for paragraph in self.epilog.split("\n\n"):
                formatter.write_paragraph()
                with formatter.indentation():
                    formatter.write_text(paragraph)
