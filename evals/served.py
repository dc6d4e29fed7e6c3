"""lm-eval's view of a model that another runtime serves: its own wording and tokens, the worker's numbers.

Text becomes tokens exactly as for a model in this process (lm-eval's `HFLM`), so prompts are the same, which their
hashes prove; only the arithmetic is the runtime's. Greedy decoding alone is offered, as the gate needs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs

from evals.errors import EvalUsageError
from evals.worker import Worker

STEP = 32
"""Tokens generated before the text is looked at for a stop sequence: a runtime that sees ids cannot stop at words."""


class ServedModel(TemplateLM):
    """A worker as an lm-eval model.

    Args:
        worker: who answers.
        tokenizer: the checkpoint's, a `transformers` tokenizer.
        batch_size: requests sent at a time.
        max_length: context in tokens; the worker's own when None.
    """

    backend = "causal"
    add_bos_token = None
    max_gen_toks = 256
    tok_encode = HFLM.tok_encode
    tok_decode = HFLM.tok_decode
    loglikelihood_rolling = HFLM.loglikelihood_rolling
    apply_chat_template = HFLM.apply_chat_template
    prefix_token_id = HFLM.prefix_token_id

    def __init__(self, worker: Worker, tokenizer: Any, batch_size: int, max_length: int | None = None) -> None:
        super().__init__()
        self.worker, self.tokenizer, self.batch_size = worker, tokenizer, batch_size
        self.max_length = min(max_length or worker.max_length, worker.max_length)
        self.custom_prefix_token_id = None

    @property
    def eot_token_id(self) -> int:
        """The end of text."""
        return int(self.tokenizer.eos_token_id)

    @property
    def tokenizer_name(self) -> str:
        """For lm-eval's caches."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def gather_object(self, value: Any) -> list[Any]:
        """One process."""
        return [value]

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **options: Any
    ) -> list[tuple[float, bool]]:
        answers: list[tuple[float, bool]] = []
        for start in range(0, len(requests), self.batch_size):
            batch = requests[start : start + self.batch_size]
            # As HFLM: too long a prompt loses its beginning, the continuation stays.
            rows = [(ids[-max(1, self.max_length + 1 - len(end)) :], end) for _, ids, end in batch]
            for (text, _, _), answer in zip(batch, self.worker.score(rows), strict=True):
                answers.append(answer)
                if text is not None:
                    self.cache_hook.add_partial("loglikelihood", text, answer)
        return answers

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The text of each answer, up to the first stop sequence.

        Raises:
            EvalUsageError: sampling is asked for.
        """
        answers: list[str] = []
        for start in range(0, len(requests), self.batch_size):
            batch = [request.args for request in requests[start : start + self.batch_size]]
            for args, answer in zip(batch, self._answers(batch), strict=True):
                answers.append(answer)
                self.cache_hook.add_partial("generate_until", args, answer)
        return answers

    def _answers(self, batch: Sequence[tuple[str, dict[str, Any]]]) -> list[str]:
        eos = self.tok_decode(self.eot_token_id, skip_special_tokens=False)
        prompts: list[list[int]] = []
        stops: list[list[str]] = []
        limits: list[int] = []
        for context, options in batch:
            kwargs: dict[str, Any] = dict(normalize_gen_kwargs(options, self.max_gen_toks))
            if kwargs.get("do_sample") or (kwargs.get("temperature") or 0) > 0:
                raise EvalUsageError(f"{self.worker.runtime}: answers are greedy there; set do_sample=False")
            stops.append(handle_stop_sequences(kwargs.pop("until", None), eos=eos))
            limits.append(int(kwargs["max_gen_toks"]))
            prompts.append(self.tok_encode(context, left_truncate_len=self.max_length - limits[-1]))
        found: list[list[int]] = [[] for _ in batch]
        texts = [""] * len(batch)
        going = list(range(len(batch)))
        while going:
            count = min(STEP, min(limits[i] - len(found[i]) for i in going))
            new = self.worker.generate([prompts[i] + found[i] for i in going], count, [self.eot_token_id])
            going_on = []
            for i, ids in zip(going, new, strict=True):
                found[i] += ids
                ended = not ids or ids[-1] == self.eot_token_id
                text = self.tok_decode(found[i][:-1] if ended and ids else found[i])
                places = [text.find(stop) for stop in stops[i] if stop and stop in text]
                texts[i] = text[: min(places)] if places else text
                if not (ended or places or len(found[i]) >= limits[i]):
                    going_on.append(i)
            going = going_on
        return texts
