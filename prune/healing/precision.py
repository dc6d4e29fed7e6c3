"""In which numbers healing computes, decided once: what is trained in float32, what is frozen as the checkpoint has it.

Assumptions: adapters are float32 whatever they stand on (peft's default), and so is the optimiser's state, which has
the type of what it moves; autocast computes matrix products in bfloat16 whatever the weights are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def autocasts(asked: bool | None, device: str, has_bfloat16: bool) -> bool:
    """Whether matrix products are made in bfloat16: as asked, else on an accelerator that has it.

    Args:
        asked: `HealSettings.bf16`.
        device: type of the device, `cpu` or another.
        has_bfloat16: whether its matrix units take bfloat16.
    """
    return (device != "cpu" and has_bfloat16) if asked is None else asked


def needs_float32(dtype: torch.dtype, method: str, *, autocast: bool, fsdp: bool) -> bool:
    """Whether the student must be widened before training.

    FSDP shards weights of one type, and adapters are float32. Whole weights are trained in float32 beside frozen ones
    in half precision, which only autocast lets through one model.

    Args:
        dtype: of the student as loaded.
        method: `HealSettings.method`.
        autocast: of `autocasts`.
        fsdp: whether FSDP shards the model.
    """
    half = dtype.itemsize < 4
    return half and (fsdp or (method == "full" and not autocast))


def accelerator() -> tuple[str, bool]:
    """Type of the device that training will use, and whether it multiplies bfloat16 in hardware."""
    import torch

    if not torch.cuda.is_available():
        return "cpu", False
    return "cuda", torch.cuda.is_bf16_supported(including_emulation=False)
