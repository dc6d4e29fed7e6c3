"""From a model to something lm-eval can ask: in memory, in one process or several, or served by another runtime.

Several processes (`accelerate launch`) each hold the whole model and answer their share of every task's items;
process 0 gets all the records. vLLM and llama.cpp run in environments of their own (`scripts/runtime`): what they need
contradicts what this project needs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evals.answers import RecordedModel
from evals.errors import EvalUsageError

BACKENDS = ("hf", "vllm", "llama.cpp", "openai")
SERVED_BATCH = 32
"""Requests sent to another runtime at a time where the batch size is "auto"; it makes its own batches of them."""


def check_backend(name: str) -> None:
    """Refuse a backend that is unknown or not installed, before anything is loaded.

    Raises:
        EvalUsageError: with the cure.
    """
    if name not in BACKENDS:
        raise EvalUsageError(f"backend {name!r}: use one of {', '.join(BACKENDS)}")
    if name not in ("hf", "openai"):
        from evals.worker import check_runtime

        check_runtime(name)


def processes() -> int:
    """How many processes `accelerate launch` (or torchrun) started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first_process() -> bool:
    """Whether this is the process that gets the results."""
    return int(os.environ.get("RANK", "0")) == 0


def in_memory(model: Any, tokenizer: Any, batch_size: int | str, max_length: int | None) -> RecordedModel:
    """A loaded `transformers` model; with several processes, this process's copy of it."""
    from evals.fitted import FittedHFLM

    # batch_size belongs here: simple_evaluate ignores its own for a model object.
    lm = FittedHFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, max_length=max_length)
    if processes() > 1:
        # HFLM takes its share of the items from these, but sets them only for a model that it loads itself.
        from accelerate import Accelerator

        accelerator = Accelerator(cpu=model.device.type == "cpu")
        lm.accelerator = accelerator
        lm._rank, lm._world_size = accelerator.process_index, accelerator.num_processes
        lm._device = accelerator.device
        lm._model = model.to(accelerator.device)
    return RecordedModel(lm)


def served(
    backend: str,
    model: Path,
    tokenizer: Any,
    batch_size: int | str,
    max_length: int | None,
    options: Mapping[str, Any] | None = None,
) -> RecordedModel:
    """A checkpoint that another runtime serves, from that runtime's own environment.

    Args:
        model: a directory; for llama.cpp a GGUF file.
        options: of the worker, such as `dtype`, `max_model_len`, `tensor_parallel_size`; see `evals/workers`. Of a
            server with OpenAI's interface `base_url`, `model` (its name there) and `max_model_len`.

    Raises:
        EvalUsageError: the runtime is not installed.
        EvalError: it cannot load the model.
    """
    if backend == "openai":
        return RecordedModel(_asked(model, tokenizer, batch_size, max_length, options or {}))
    from evals.served import ServedModel
    from evals.worker import Worker

    settings = {"vocabulary": len(tokenizer), **(options or {})}
    if max_length is not None:
        settings.setdefault("max_model_len", max_length)
    size = batch_size if isinstance(batch_size, int) else SERVED_BATCH
    worker = Worker(backend, model, {"batch_size": size, **settings})
    return RecordedModel(ServedModel(worker, tokenizer, size, max_length))


def _asked(
    model: Path, tokenizer: Any, batch_size: int | str, max_length: int | None, options: Mapping[str, Any]
) -> Any:
    """A server with OpenAI's completions interface.

    Raises:
        EvalUsageError: no address.
    """
    from evals.completions import CompletionsModel, CompletionsServer

    if not options.get("base_url"):
        raise EvalUsageError("base_url is missing: --backend openai asks a server; give its address, with /v1")
    server = CompletionsServer(str(options["base_url"]), str(options.get("name") or model), options)
    size = batch_size if isinstance(batch_size, int) else SERVED_BATCH
    return CompletionsModel(server, tokenizer, size, max_length)  # type: ignore[arg-type]  # answers as a worker does
