"""A model that another runtime serves, with as much of the face of a transformers model as `generate_answers` asks for;
and as a teacher.

Prompts go as token ids, and greedy tokens come back; see `evals/workers/protocol.md`. Assumption: the runtime reads the
checkpoint as transformers does, which `prune.serving` tells.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch

from evals.worker import Worker
from prune.checkpoint.source import Source
from prune.errors import PruneError
from prune.healing.buckets import Buckets, of_likeliest
from prune.healing.targets import counted_tokens
from prune.model.loading import load_config, resolve_dtype

if TYPE_CHECKING:
    from prune.data.domains import Document
    from prune.healing.settings import TeachSettings
    from prune.healing.teaching import Teacher


class ServedModel:
    """Answers of a worker.

    Attributes:
        runtime: name and version of who answers.
        dtype: in which it computes.
        generation_config: transformers' own; `max_new_tokens`, `eos_token_id` and `pad_token_id` are read.
    """

    device = torch.device("cpu")

    def __init__(self, worker: Worker, dtype: str, vocabulary: int, generation_config: Any) -> None:
        self.worker, self.dtype = worker, dtype
        self.runtime = f"{worker.runtime} {worker.version}"
        self.generation_config = generation_config
        self._embeddings = SimpleNamespace(num_embeddings=vocabulary)

    def get_input_embeddings(self) -> Any:
        """Only `num_embeddings`."""
        return self._embeddings

    def generate(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Prompts with their answers, padded on the right; greedy.

        Args:
            input_ids: [B, T], padded on the left.
            attention_mask: [B, T], 0 on padding.

        Raises:
            PruneError: an answer ended before its limit without an end of text: the context was full.
        """
        settings = self.generation_config
        ends = settings.eos_token_id or []
        prompts = [row[mask.bool()].tolist() for row, mask in zip(input_ids, attention_mask, strict=True)]
        answers = self.worker.generate(prompts, settings.max_new_tokens, ends)
        out = torch.full((len(prompts), settings.max_new_tokens), settings.pad_token_id)  # [B, new]
        for row, answer in zip(out, answers, strict=True):
            if len(answer) < settings.max_new_tokens and not (answer and answer[-1] in ends):
                raise PruneError(
                    f"{self.runtime}: an answer ended after {len(answer)} of {settings.max_new_tokens} tokens: its"
                    f" context of {self.worker.max_length} is full; lower --max_new_tokens, or raise it with"
                    " --model_args max_model_len=N"
                )
            row[: len(answer)] = torch.tensor(answer, dtype=torch.long)
        return torch.cat([input_ids, out], dim=1)  # [B, T + new]

    def teacher(self, settings: TeachSettings) -> Teacher:
        """The model as a teacher of its k likeliest tokens. Their bucketed distribution's entropy stands in for the
        whole one's, which the runtime does not tell and is larger."""
        size, k = settings.batch_size, settings.top_k

        def teach(documents: Sequence[Document]) -> Iterator[tuple[int, Buckets]]:
            order = sorted(range(len(documents)), key=lambda i: -len(documents[i].input_ids))
            for begin in range(0, len(order), size):
                batch = order[begin : begin + size]
                rows = [(documents[i].input_ids, max(1, documents[i].answer_start)) for i in batch]
                for i, (tokens, log_probs) in zip(batch, self.worker.predict(rows, k), strict=True):
                    if len(tokens) != counted_tokens(documents[i]) or any(len(likeliest) != k for likeliest in tokens):
                        raise PruneError(
                            f"{self.runtime}: told {len(tokens)} of {counted_tokens(documents[i])} positions of a "
                            f"document of {len(documents[i].input_ids)} tokens; raise its context of "
                            f"{self.worker.max_length} with --model_args max_model_len=N"
                        )
                    yield i, of_likeliest(torch.tensor(tokens), torch.tensor(log_probs))

        return teach


@contextmanager
def served(source: Source, runtime: str, dtype: str, options: Mapping[str, Any], batch_size: int) -> Iterator[Any]:
    """The model of a checkpoint in the environment of another runtime, for the length of the block.

    Args:
        dtype: of the computation; `auto` is what it is in this process.
        options: of the worker, such as `max_model_len` and `tensor_parallel_size`; they win.

    Raises:
        UsageError: the runtime is not installed.
        EvalError: it cannot load the model.
    """
    from transformers import GenerationConfig

    settings = {"dtype": str(resolve_dtype(dtype)).removeprefix("torch."), "batch_size": batch_size, **options}
    config = load_config(source)
    try:
        generation = GenerationConfig.from_pretrained(source.directory)
    except OSError:  # none beside the weights: transformers takes it from the config
        generation = GenerationConfig.from_model_config(config)
    with Worker(runtime, source.directory, settings) as worker:
        yield ServedModel(worker, str(settings["dtype"]), config.get_text_config().vocab_size, generation)
