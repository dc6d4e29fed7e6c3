"""What the functions that take `stream` share: which models can be streamed, and where activations go."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from prune.errors import UsageError

if TYPE_CHECKING:
    from prune.analysis.processes import Processes
    from prune.analysis.streamed import Streaming
    from prune.api._given import Given
    from prune.checkpoint.source import Source


def check_streamable(subject: Given) -> Source:
    """The checkpoint to stream.

    Raises:
        UsageError: the model is in memory, or placed.
    """
    if subject.source is None:
        raise UsageError("--stream: the model is in memory already; give its directory or hub id")
    if subject.source.placement is not None:
        raise UsageError(
            "--stream and --device_map exclude each other: both say where the layers are; give one of them"
        )
    return subject.source


def streaming_of(source: Source, target: Path | None, memory: float, processes: Processes) -> Streaming:
    """The model with its layers on disk.

    Args:
        target: the output, beside which activations may lie; the system's folder for temporary files if None.
        memory: GiB of activations to hold in memory.
        processes: this one must be alone.

    Raises:
        UsageError: it is not.
    """
    from prune.analysis.streamed import GIB, Streaming
    from prune.model.streaming import StreamedModel

    if processes.count > 1:
        raise UsageError("--stream runs in one process: start it without torchrun or accelerate launch")
    inside = Path(tempfile.gettempdir()) / "spill" if target is None else target.absolute()
    spill = next(parent for parent in inside.parents if parent.is_dir())
    return Streaming(StreamedModel(source), int(memory * GIB), spill)
