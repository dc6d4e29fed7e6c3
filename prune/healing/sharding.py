"""Training spread over processes in parts: FSDP 2 and DeepSpeed's ZeRO, and what of them is refused before training.

Assumptions: the launcher (`torchrun`, `accelerate launch`) tells accelerate about FSDP by environment variables; a
DeepSpeed configuration comes by `settings.deepspeed`, because accelerate knows of it only what Trainer tells.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from accelerate.utils import parse_flag_from_env
from transformers import TrainingArguments

from prune.errors import PruneError, UsageError
from prune.healing.settings import HealSettings


def uses_fsdp() -> bool:
    """Whether the launcher asks accelerate for FSDP."""
    return parse_flag_from_env("ACCELERATE_USE_FSDP")


def is_sharded(settings: HealSettings) -> bool:
    """Whether what is trained is taken apart, so that it must not share its weights with the teacher."""
    return uses_fsdp() or settings.deepspeed is not None


def has_accelerator() -> bool:
    """Whether there is a device on which accelerate shards."""
    import torch

    return torch.accelerator.is_available()


def check_sharding(settings: HealSettings) -> None:
    """Refuse what cannot work or would not stop at a non-finite gradient.

    Raises:
        UsageError: FSDP without an accelerator or of version 1, DeepSpeed told to accelerate instead of here, both at
            once, no launcher, or a configuration of `deepspeed_config`.
        PruneError: DeepSpeed is not installed.
    """
    if uses_fsdp() and os.environ.get("FSDP_VERSION") != "2":  # version 1 renames and flattens the parameters
        raise UsageError("FSDP of version 1 is not supported: `accelerate launch --use_fsdp --fsdp_version 2 ...`")
    if uses_fsdp() and not has_accelerator():  # accelerate would let each process train for itself
        raise UsageError(
            "FSDP needs GPUs: on CPUs launch without `--use_fsdp`, and the processes train under DDP"
            + (", with --method lora" if settings.method == "qlora" else "")
        )
    if settings.deepspeed is None:
        if parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"):
            raise UsageError(
                "`accelerate launch --use_deepspeed` is not supported: give `prune heal --deepspeed CONFIG`"
            )
        return
    deepspeed_config(settings.deepspeed)
    if uses_fsdp():
        raise UsageError(
            "--deepspeed and FSDP exclude each other: launch without `--use_fsdp`, or leave out --deepspeed"
        )
    if "LOCAL_RANK" not in os.environ:
        raise UsageError("--deepspeed needs a launcher: `torchrun --nproc_per_node=N -m prune heal ...`")
    try:
        from deepspeed.utils import logger
    except ImportError as error:
        raise PruneError(
            f"--deepspeed needs DeepSpeed ({error}): pip install deepspeed, or launch with FSDP 2 instead"
        ) from error
    for handler in logger.handlers:  # it logs to standard output, which belongs to --json
        handler.setStream(sys.stderr)


def check_processes(arguments: TrainingArguments) -> None:
    """Refuse processes that would train each for itself, because accelerate takes DeepSpeed on accelerators only.

    Raises:
        UsageError: they would.
    """
    if arguments.deepspeed is not None and arguments.world_size != int(os.environ.get("WORLD_SIZE", 1)):
        raise UsageError("--deepspeed needs GPUs: on CPUs leave it out, and the processes train under DDP")


def deepspeed_config(path: str) -> dict[str, Any]:
    """The configuration as Trainer gets it: what it leaves out is filled in from the settings of the run.

    Args:
        path: JSON file.

    Raises:
        UsageError: no such file, not JSON, or a ZeRO stage or precision that healing cannot work with.
    """
    try:
        config = json.loads(Path(path).read_text(encoding="utf8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"--deepspeed {path}: cannot be read as JSON ({error})") from error
    zero = config.get("zero_optimization", {}) if isinstance(config, dict) else None
    if not isinstance(zero, dict):
        raise UsageError(f"--deepspeed {path}: must be an object with an object zero_optimization")
    if zero.get("stage", 0) not in (1, 2, 3):
        raise UsageError(
            f"--deepspeed {path}: zero_optimization.stage is {zero.get('stage', 0)}, but healing works with 1, 2 and 3"
        )
    if zero["stage"] == 3:  # or a checkpoint would hold no adapters
        config["zero_optimization"] = {"stage3_gather_16bit_weights_on_model_save": True, **zero}
    if config.get("fp16", {}).get("enabled"):  # its loss scale overflows on purpose; healing stops at an overflow
        raise UsageError(f"--deepspeed {path}: fp16 is not supported: remove it, and use --bf16 with bf16.enabled auto")
    for field in ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping"):
        config.setdefault(field, "auto")
    # In bfloat16 DeepSpeed by default lets a gradient that is not finite into the weights.
    config["bf16"] = {"enabled": "auto", **config.get("bf16", {}), "check_grad_overflow": True}
    return config
