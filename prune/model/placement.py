"""Layers over several devices, host memory and disk: what accelerate is asked for, and what must hold afterwards.

accelerate's hooks bring a layer's weights and its input together on one device when the layer is called, so a walk over
the layers needs no more than the calls. What lies on disk is read where the checkpoint has it; only tensors that are
converted while loading (fused experts) are written to a folder of their own, which goes with the model.
Assumption: generation and lm-eval send token ids to where the first parameter lies, so that one must be in memory.
"""

from __future__ import annotations

import tempfile
import weakref
from typing import TYPE_CHECKING, Any

from evals.weights import offloaded
from prune.checkpoint.source import Placement, Source
from prune.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from transformers import PreTrainedModel


class Placed:
    """One model's placement while it is loaded.

    Attributes:
        options: for `from_pretrained`.
    """

    def __init__(self, placement: Placement) -> None:
        """Raises UsageError: max_memory names a GPU that is not there."""
        self._folder = tempfile.TemporaryDirectory(prefix="prune-offload-", dir=placement.offload_folder)
        self.options: dict[str, Any] = {
            "device_map": placement.device_map,
            "max_memory": _limits(placement) or None,
            "offload_folder": self._folder.name,
        }

    def settle(self, source: Source, loaded: PreTrainedModel) -> Iterator[tuple[str, torch.Tensor]]:
        """Let the folder live as long as the model; the tensors that are not in memory, for whoever checks them.

        Raises:
            UsageError: no memory is left for the embeddings.
        """
        weakref.finalize(loaded, self._folder.cleanup)
        if loaded.device.type == "meta":
            need = loaded.get_input_embeddings().weight.nbytes
            raise UsageError(
                f"--max_memory: leaves no room for the embeddings of {source.id} ({need / 1e6:.1f} MB) beside one "
                "layer; give more"
            )
        return offloaded(loaded)


def _limits(placement: Placement) -> dict[int | str, str | int]:
    import torch

    limits: dict[int | str, str | int] = {}
    for name, size in placement.max_memory.items():
        if str(name).isdecimal() and int(name) >= torch.cuda.device_count():
            raise UsageError(
                f"--max_memory {name}={size}: there is no GPU {name} here ({torch.cuda.device_count()} seen)"
            )
        limits[int(name) if str(name).isdecimal() else name] = size
    return limits
