"""`prune` under FSDP on CPU processes: accelerate's own code, which by itself takes FSDP on accelerators only.

`AcceleratorState` reads the plugin only where the processes have GPUs or the like; with CPU processes the same launch
trains under DDP. Here the state is told to use the plugin; sharding, gathering and clipping are accelerate's and
torch's. At the end standard error says how many sharded tensors were gathered.
"""

from __future__ import annotations

import atexit
import sys
from typing import Any

import torch
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from torch.distributed.tensor import DTensor

from prune.healing import trainer

ordinary, whole, gathered = AcceleratorState.__init__, trainer.whole, []


def with_plugin(self: AcceleratorState, *arguments: Any, fsdp_plugin: Any = None, **options: Any) -> None:
    """What the state does for GPUs."""
    ordinary(self, *arguments, fsdp_plugin=fsdp_plugin, **options)
    if fsdp_plugin is not None:
        self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin


def counted(parameter: torch.Tensor) -> torch.Tensor:
    """`whole`, and a note where there was something to gather."""
    if isinstance(parameter, DTensor) and parameter.to_local().numel() < parameter.numel():
        gathered.append(parameter)
    return whole(parameter)


if __name__ == "__main__":
    from prune.cli import main

    AcceleratorState.__init__, trainer.whole = with_plugin, counted
    atexit.register(lambda: print(f"gathered {len(gathered)} sharded tensors", file=sys.stderr))
    main()
