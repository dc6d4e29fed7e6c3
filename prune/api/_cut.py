"""`prune.cut`: remove layers from a checkpoint on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prune.planning.plan import Plan
    from prune.surgery.cut import CutResult


def cut(
    model: str,
    output: str | Path,
    *,
    plan: str | Path | Plan | None = None,
    drop_layers: str | Sequence[int] | None = None,
    keep_layers: str | Sequence[int] | None = None,
    max_shard_size: str = "5GB",
    link: bool = False,
    verify: bool = True,
    dry_run: bool = False,
) -> CutResult:
    """Remove layers from a checkpoint on disk, exactly; see `prune.surgery.cut.cut`."""
    from prune.model.loading import model_directory
    from prune.surgery import cut as surgery

    return surgery.cut(
        model_directory(model),
        output,
        drop_layers=drop_layers,  # type: ignore[arg-type]
        keep_layers=keep_layers,  # type: ignore[arg-type]
        plan=Path(plan) if isinstance(plan, str) else plan,
        max_shard_size=max_shard_size,
        link=link,
        verify=verify,
        dry_run=dry_run,
    )
