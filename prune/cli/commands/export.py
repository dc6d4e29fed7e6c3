"""`prune export`."""

from __future__ import annotations

from typing import Any

from prune.api._export import ExportArguments
from prune.cli.flags import DryRun, Json, Model, Output, Quiet, with_settings
from prune.cli.show import emit


def export(
    model: Model,
    output: Output,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
    **settings: Any,
) -> None:
    """Package a cut or healed model, with manifest and card."""
    from prune import api

    manifest = api.export(model, output, dry_run=dry_run, **settings)
    state = "would be written" if dry_run else "written"
    lines = [f"{state}: {output} ({manifest['label']})"]
    if quantize := settings.get("quantize"):
        lines.append(f"{state}: {output.rstrip('/')}-{quantize} (not measured itself)")
    emit(manifest, lines, as_json=as_json, quiet=quiet)


command = with_settings(ExportArguments)(export)
