"""`prune.report`: write the report of a finished run again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


def report(run: str | Path, *, lang: str = "en") -> dict[str, str]:
    """Write report.html, report.md and report.json of a finished run again; returns their paths."""
    from prune.assemble import assemble
    from prune.files import write_text
    from prune.reporting.page import render_html, render_markdown

    root = Path(run)
    data = assemble(root)
    data.save(root / "report.json")
    write_text(root / "report.md", render_markdown(data, lang))
    render_html(data, root / "report.html", lang)
    return {kind: str(root / f"report.{kind}") for kind in ("html", "md", "json")}
