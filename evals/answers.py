"""Answers to single requests, kept as they come, so that a killed evaluation goes on inside the task that was running.

Sits between lm-eval's evaluator and its `HFLM`. A file of answers belongs to one task run of one model (its name
comes from `FinishedTasks`), so nothing can reach another model. Rows are written in whole batches, one sealed line
each, when the next batch starts: a resumed run then forms the same batches as an unbroken one, and gives the same
figures to the last bit.
Sampled answers are never kept. Also notes which generated answers were cut off by the length limit, which the text
alone does not show.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from evals.chat import NotRendered, check_system
from evals.errors import EvalError
from evals.progress import Stage, stage
from evals.sealed import sealed, unsealed

log = logging.getLogger("evals")
NAN = "the model gives NaN {}: check its weights, or use a wider dtype"
KINDS = ("loglikelihood", "loglikelihood_rolling", "generate_until")


def _key(kind: str, args: Sequence[Any]) -> str:
    text = json.dumps([kind, list(args)], sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _refuse_nan(ids: Any, logits: Any) -> Any:
    """A processor of `generate`, for logits [B, V]: greedy decoding takes a token from NaN, too."""
    if logits.isnan().any():
        raise EvalError(NAN.format("logits"))
    return logits


class RecordedModel:
    """An lm-eval model whose answers are recorded; everything else is the model's own.

    Attributes:
        model: the wrapped `HFLM`.
        cut_off: how often each generation request's answer was cut off by the length limit.
        left_out: what the chat template did not put into the prompts of the task at hand.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.cut_off: Counter[str] = Counter()
        self._known: dict[str, list[Any]] = defaultdict(list)
        self._pending: list[dict[str, Any]] = []
        self._file: Path | None = None
        self._tokens: list[list[int]] = []
        self._answering = Stage("answers")
        self.left_out: set[str] = set()
        self._uses_system: dict[str, bool] = {}
        model.set_cache_hook(self)
        self._sees_tokens = hasattr(model, "_model_generate")
        if self._sees_tokens:  # other adapters than HFLM do without: no batches to see, no tokens
            model._model_call = self._starting(model._model_call)
            model._model_generate = self._generating(model._model_generate)

    def __getattr__(self, name: str) -> Any:
        if name in KINDS:
            return lambda requests, **options: self._answer(name, requests, **options)
        return getattr(self.model, name)

    @property
    def answered_by(self) -> str:
        """The program that runs the model, with its version where it tells one."""
        worker = getattr(self.model, "worker", None)
        if worker is None:
            return f"transformers {version('transformers')}"
        return f"{worker.runtime} {getattr(worker, 'version', '')}".strip()

    @contextlib.contextmanager
    def task(self, path: Path | None) -> Iterator[None]:
        """Keep answers in `path` while one task runs, and take from it what an earlier, killed run left there."""
        self._file, self._pending, self._tokens = path, [], []
        self.cut_off.clear()
        self.left_out.clear()
        self._known.clear()
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._read(path)
        try:
            yield
        finally:
            self._commit()
            self._file = None

    def was_cut_off(self, args: Sequence[Any]) -> bool:
        """Whether the answer to this generation request reached the length limit."""
        return self.cut_off[_key("generate_until", args)] > 0

    def apply_chat_template(self, chat_history: list[dict[str, Any]], *args: Any, **options: Any) -> str:
        """lm-eval's, which goes on without the system message where the template refuses it; here that is noted."""
        system = next((str(message["content"]) for message in chat_history if message["role"] == "system"), "")
        if system and system not in self._uses_system:
            try:
                check_system(self.model.tokenizer, system)
                self._uses_system[system] = True
            except NotRendered:
                self._uses_system[system] = False
        if system and not self._uses_system[system]:
            self.left_out.add("the system message: the chat template takes none")
        return str(self.model.apply_chat_template(chat_history, *args, **options))

    def _read(self, path: Path) -> None:
        if not path.is_file():
            return
        size = 0
        for line in path.read_bytes().splitlines(keepends=True):
            try:
                rows = unsealed(line)["rows"] if line.endswith(b"\n") else None
            except (ValueError, KeyError) as error:
                log.warning("%s: damaged at byte %d (%s); answered again from there on", path, size, error)
                rows = None
            if rows is None:  # a killed process may leave half a line; what follows must form the same batches
                break
            size += len(line)
            for row in rows:
                answer = row["answer"]
                self._known[row["key"]].append(tuple(answer) if isinstance(answer, list) else answer)
                self.cut_off[row["key"]] += row.get("cut_off", False)
        with path.open("r+b") as handle:
            handle.truncate(size)

    def _answer(self, kind: str, requests: Sequence[Any], **options: Any) -> list[Any]:
        answers: list[Any] = [None] * len(requests)
        missing = []
        taken: Counter[str] = Counter()
        for index, request in enumerate(requests):
            key = _key(kind, request.args)
            if taken[key] < len(self._known[key]):
                answers[index] = self._known[key][taken[key]]
                taken[key] += 1
            else:
                missing.append(index)
        if missing:
            with stage("answers", len(missing), "requests") as self._answering:
                fresh = getattr(self.model, kind)([requests[index] for index in missing], **options)
            self._commit()
            for index, answer in zip(missing, fresh, strict=True):
                answers[index] = answer
        return answers

    def add_partial(self, kind: str, args: Sequence[Any], answer: Any) -> None:
        """Called by lm-eval for every answer of a batch, in the batch's order."""
        # A comparison with NaN is false, so an accuracy made of it would look like a poor model's.
        if kind != "generate_until" and math.isnan(answer[0] if isinstance(answer, tuple) else answer):
            raise EvalError(NAN.format("log-likelihoods"))
        self._answering.advance()
        key = _key(kind, args)
        row: dict[str, Any] = {"key": key, "answer": answer}
        if kind == "generate_until":
            row["cut_off"] = self._is_cut_off(args, answer)
            self.cut_off[key] += row["cut_off"]
            if args[1].get("do_sample"):
                return
        self._pending.append(row)

    def _is_cut_off(self, args: Sequence[Any], answer: str) -> bool:
        if not self._sees_tokens:
            length = int(args[1].get("max_gen_toks", getattr(self.model, "max_gen_toks", 256)))
            return len(self.model.tok_encode(answer)) >= length
        tokens = self._tokens.pop(0) if self._tokens else []
        ended = self.model.eot_token_id in tokens or answer != self.model.tok_decode(tokens)
        return bool(tokens) and not ended

    def gather_cut_off(self) -> None:
        """Bring together what several processes saw; every process must call it."""
        gathered = self.model.gather_object(dict(self.cut_off))
        for other in (gathered or [])[1:]:
            self.cut_off.update(other)

    def _starting(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(ids: Any, *args: Any, **options: Any) -> Any:
            self._commit()
            self._refuse_unknown(ids)
            return call(ids, *args, **options)

        return wrapped

    def _generating(self, generate: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(context: Any, *args: Any, **options: Any) -> Any:
            self._commit()
            self._refuse_unknown(context)
            guarded = {**self._with_room(options), "logits_processor": [_refuse_nan]}
            rows = generate(context, *args, **guarded)
            self._tokens = rows[:, context.shape[1] :].tolist()
            return rows

        return wrapped

    def _with_room(self, options: dict[str, Any]) -> dict[str, Any]:
        """A cache that is not copied at every token, for plain decoding."""
        from evals.growing_cache import growing_cache

        if {"past_key_values", "cache_implementation", "num_beams"} & set(options) or options.get("use_cache") is False:
            return options
        cache = growing_cache(self.model.model)
        return options if cache is None else {**options, "past_key_values": cache}

    def _refuse_unknown(self, ids: Any) -> None:
        """Token ids [B, T] without a row in the embedding would end in an index error, or in any row at all."""
        rows = self.model.model.get_input_embeddings().weight.shape[0]
        if ids.numel() and (largest := int(ids.max())) >= rows:
            word = self.model.tokenizer.convert_ids_to_tokens(largest)
            raise EvalError(
                f"a prompt holds token id {largest} ({word!r}), the model has {rows} embedding rows: the tokenizer is "
                "of another model, or tokens were added to it and the embeddings not resized"
            )

    def _commit(self) -> None:
        if self._file is not None and self._pending:
            with self._file.open("a", encoding="utf8") as handle:
                handle.write(sealed({"rows": self._pending}) + "\n")
        self._pending = []
