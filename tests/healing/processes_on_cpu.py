"""`prune` in one of several CPU processes, with FSDP and DeepSpeed as on GPUs, and mortal.

accelerate takes both only where the processes have GPUs or the like. Here its state is told to use them, and DeepSpeed
to use gloo instead of compiling reductions of its own; sharding, gathering and clipping are the libraries' own. With
DIE_AFTER in the environment the process ends without a word after so many steps. At the end standard error says how
many sharded tensors were gathered, and how many 4-bit weights are sharded.
"""

from __future__ import annotations

import atexit
import importlib.util
import os
import sys
from typing import Any

import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from torch.distributed.tensor import DTensor

from prune.healing import receiving, sharding, trainer
from prune.healing.trainer import HealTrainer
from prune.model import loading
from prune.model.loading import load_model

ordinary, whole, step = AcceleratorState.__init__, trainer.whole, HealTrainer.training_step
prepare = PartialState._prepare_backend
gathered: list[torch.Tensor] = []
four_bit: set[str] = set()


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


def mortal(self: HealTrainer, *arguments: Any, **options: Any) -> torch.Tensor:
    """A step, or a sudden end."""
    if str(self.state.global_step) == os.environ.get("DIE_AFTER"):
        os._exit(9)
    for name, parameter in self.model.named_parameters():
        if isinstance(parameter, DTensor) and parameter.shape[1:] == (1,):  # as bitsandbytes lays them out
            four_bit.add(name)
    return step(self, *arguments, **options)


def prepared(self: PartialState, cpu: bool = False, *arguments: Any) -> tuple[str | None, DistributedType]:
    """What the state does for GPUs."""
    backend, kind = prepare(self, cpu, *arguments)
    return ("gloo", DistributedType.MULTI_CPU) if backend is None and "LOCAL_RANK" in os.environ else (backend, kind)


def without_compiler() -> None:
    """Let DeepSpeed use torch's reductions."""
    if importlib.util.find_spec("deepspeed") is not None:
        import deepspeed.ops

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def read(*arguments: Any, **options: Any) -> Any:
    """`load_model`, and a note of the process that read."""
    print(f"process {os.environ.get('RANK')} reads weights", file=sys.stderr)
    return load_model(*arguments, **options)


def report() -> None:
    print(f"gathered {len(gathered)} sharded tensors", file=sys.stderr)
    print(f"{len(four_bit)} sharded 4-bit weights", file=sys.stderr)


if __name__ == "__main__":
    from prune.cli import main

    AcceleratorState.__init__, trainer.whole, HealTrainer.training_step = with_plugin, counted, mortal
    PartialState._prepare_backend = prepared
    sharding.has_accelerator = lambda: True
    receiving.load_model = loading.load_model = read
    without_compiler()
    atexit.register(report)
    main()
