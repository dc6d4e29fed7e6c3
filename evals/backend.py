"""From a model to something lm-eval can ask: one in memory, in one process or several, or a directory served by vLLM.

Several processes (`accelerate launch`) each hold the whole model and answer their share of every task's items;
process 0 gets all the records. vLLM is driven by lm-eval's own adapter, from the checkpoint's directory.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evals.answers import RecordedModel
from evals.errors import EvalUsageError

BACKENDS = ("hf", "vllm")


def check_backend(name: str) -> None:
    """Refuse a backend that is unknown or not installed, before anything is loaded.

    Raises:
        EvalUsageError: with the cure.
    """
    if name not in BACKENDS:
        raise EvalUsageError(f"backend {name!r}: use one of {', '.join(BACKENDS)}")
    if name == "vllm" and importlib.util.find_spec("vllm") is None:
        raise EvalUsageError("backend vllm: vLLM is not installed here; pip install vllm, or use the backend hf")


def processes() -> int:
    """How many processes `accelerate launch` (or torchrun) started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first_process() -> bool:
    """Whether this is the process that gets the results."""
    return int(os.environ.get("RANK", "0")) == 0


def in_memory(model: Any, tokenizer: Any, batch_size: int | str, max_length: int | None) -> RecordedModel:
    """A loaded `transformers` model; with several processes, this process's copy of it."""
    from lm_eval.models.huggingface import HFLM

    # batch_size belongs here: simple_evaluate ignores its own for a model object.
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, max_length=max_length)
    if processes() > 1:
        # HFLM takes its share of the items from these, but sets them only for a model that it loads itself.
        from accelerate import Accelerator

        accelerator = Accelerator(cpu=model.device.type == "cpu")
        lm.accelerator = accelerator
        lm._rank, lm._world_size = accelerator.process_index, accelerator.num_processes
        lm._device = accelerator.device
        lm._model = model.to(accelerator.device)
    return RecordedModel(lm)


def from_directory(
    backend: str,
    directory: Path,
    batch_size: int | str,
    max_length: int | None,
    options: Mapping[str, Any] | None = None,
) -> RecordedModel:
    """A checkpoint served by one of lm-eval's own adapters.

    Args:
        options: passed on to the adapter, as lm-eval's `--model_args`.
    """
    from lm_eval.api.registry import get_model

    arguments: dict[str, Any] = {"pretrained": str(directory), **(options or {})}
    if max_length is not None:
        arguments["max_length"] = max_length
    return RecordedModel(get_model(backend).create_from_arg_obj(arguments, {"batch_size": batch_size}))
