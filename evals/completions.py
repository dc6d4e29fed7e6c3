"""Any server with OpenAI's completions interface as an lm-eval model: likelihoods and greedy answers.

Prompts are worded and cut into tokens here, exactly as for a model in this process, and sent as token ids, so the same
items can be proven by hash. Likelihoods come from `echo` with `logprobs`; a server that does not give these can answer,
but not score. A server that shortens what it was sent is found out and refused. The key is read from OPENAI_API_KEY,
sent to that server alone (redirections are not followed), and written nowhere.
"""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs

from evals.errors import EvalError, EvalUsageError
from evals.secrets import without_secrets
from evals.served import ServedModel

KEY = "OPENAI_API_KEY"
TRIES, WAIT = 4, 1.0
"""Of a request that the server was too busy for, and seconds before the second; doubled each time."""
LONGEST_WAIT = 60.0
"""Seconds between two tries, whatever the server asks for."""
BUSY = (408, 409, 429, 500, 502, 503, 504)
SECONDS = 600.0
"""Longest wait for an answer."""
CONTEXT = 2048
"""Tokens of context where neither the server nor the user states them."""


class _NoRedirection(urllib.request.HTTPRedirectHandler):
    """A key is for one address."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


class CompletionsServer:
    """One model of a server.

    Attributes:
        runtime: for messages.
        url: the interface's root, such as `http://localhost:8000/v1`.
        model: its name there.
        max_length: context in tokens.
    """

    runtime = "openai"

    def __init__(self, url: str, name: str, options: Mapping[str, Any]) -> None:
        """Ask the server for its models.

        Args:
            name: of the model, as the user gave it: known there, or the only one.
            options: `model`, its name there; `max_model_len`.

        Raises:
            EvalUsageError: not a web address, or no such model there.
            EvalError: no server, or one that refuses.
        """
        if not url.startswith(("http://", "https://")):
            raise EvalUsageError(f"base_url {without_secrets(url)}: give a web address: http://localhost:8000/v1")
        self.url = url.rstrip("/")
        self._open = urllib.request.build_opener(_NoRedirection).open
        listed = {str(entry["id"]): entry for entry in self._ask("models", None).get("data", [])}
        wanted = str(options.get("model") or name)
        if wanted not in listed and not options.get("model") and len(listed) == 1:
            wanted = next(iter(listed))
        if wanted not in listed:
            raise EvalUsageError(
                f"base_url {self._shown}: serves no model {wanted!r}, but {', '.join(listed) or 'none'}: name one with "
                "model_args model=NAME"
            )
        self.model = wanted
        self.max_length = int(options.get("max_model_len") or listed[wanted].get("max_model_len") or CONTEXT)

    @property
    def _shown(self) -> str:
        return without_secrets(self.url)

    def score(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation, and whether it is the greedy one.

        Args:
            rows: (context, continuation) in token ids; a context has at least one.

        Raises:
            EvalError: the server gives no likelihoods of what it was sent, or shortens it.
        """
        prompts = [[*context, *end] for context, end in rows]
        said = self._complete(prompts, {"max_tokens": 1, "echo": True, "logprobs": 1}, shortened=True)
        found = []
        for (context, end), choice in zip(rows, said, strict=True):
            given = choice.get("logprobs") or {}
            values, best = given.get("token_logprobs"), given.get("top_logprobs")
            if not values or not best:
                raise EvalError(
                    f"base_url {self._shown}: gives no likelihoods of the prompt's tokens (echo with logprobs): test "
                    "tasks that generate there, the others with another --backend"
                )
            if len(values) < len(context) + len(end):
                raise self._shortens(len(context) + len(end), len(values))
            places = slice(len(context), len(context) + len(end))
            own = [float(value) for value in values[places]]
            tops = [max(map(float, top.values())) for top in best[places]]
            found.append((sum(own), all(a >= b for a, b in zip(own, tops, strict=True))))
        return found

    def answer(self, prompts: Sequence[Sequence[int]], limit: int, stops: Sequence[str]) -> list[str]:
        """Greedy answers, up to the first stop sequence; errors as in `score`."""
        options = {"max_tokens": limit, **({"stop": list(stops)[:4]} if stops else {})}  # the interface takes four
        return [str(choice["text"]) for choice in self._complete(prompts, options, shortened=True)]

    def _complete(
        self, prompts: Sequence[Sequence[int]], options: Mapping[str, Any], *, shortened: bool
    ) -> list[dict[str, Any]]:
        asked = {"model": self.model, "prompt": [list(ids) for ids in prompts], "temperature": 0, **options}
        said = self._ask("completions", asked)
        choices = sorted(said.get("choices", []), key=lambda choice: choice.get("index", 0))
        if len(choices) != len(prompts):
            raise EvalError(f"base_url {self._shown}: gave {len(choices)} answers to {len(prompts)} prompts")
        sent, read = sum(map(len, prompts)), (said.get("usage") or {}).get("prompt_tokens")
        if shortened and read is not None and read < sent:
            raise self._shortens(sent, read)
        return choices

    def _shortens(self, sent: int, read: int) -> EvalError:
        return EvalError(
            f"base_url {self._shown}: shortens prompts: {sent} tokens were sent, {read} were read: serve it with a "
            "longer context, or give model_args max_model_len"
        )

    def _ask(self, path: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(KEY):
            headers["Authorization"] = f"Bearer {key}"
        data = None if body is None else json.dumps(body).encode()
        for trial in range(TRIES):
            request = urllib.request.Request(f"{self.url}/{path}", data=data, headers=headers)
            try:
                with self._open(request, timeout=SECONDS) as answer:
                    found = json.loads(answer.read())
                if not isinstance(found, dict):
                    raise ValueError("no JSON object")
                return found
            except urllib.error.HTTPError as error:
                if error.code not in BUSY or trial == TRIES - 1:
                    raise self._refused(path, error) from None
                stated = error.headers.get("Retry-After") or ""
                time.sleep(min(float(stated), LONGEST_WAIT) if stated.isdecimal() else WAIT * 2**trial)
            except (OSError, ValueError) as error:
                reason = without_secrets(" ".join(str(error).split())[:200])
                raise EvalError(f"base_url {self._shown}: no such server answers there ({reason})") from None
        raise AssertionError  # the last trial returns or raises

    def _refused(self, path: str, error: urllib.error.HTTPError) -> EvalError:
        if error.code in (401, 403):
            return EvalError(f"base_url {self._shown}: refuses the key ({error.code}): set {KEY} to one that it knows")
        said = " ".join(error.read(2000).decode("utf8", "replace").split())[:300]
        return EvalError(f"base_url {self._shown}/{path}: error {error.code}: {without_secrets(said)}")


class CompletionsModel(ServedModel):
    """A completions server as an lm-eval model."""

    worker: Any

    def _answers(self, batch: Sequence[tuple[str, dict[str, Any]]]) -> list[str]:
        eos = self.tok_decode(self.eot_token_id, skip_special_tokens=False)
        texts = []
        for context, options in batch:
            kwargs: dict[str, Any] = dict(normalize_gen_kwargs(options, self.max_gen_toks))
            if kwargs.get("do_sample") or (kwargs.get("temperature") or 0) > 0:
                raise EvalUsageError("openai: answers are greedy there; set do_sample=False")
            stops = [stop for stop in handle_stop_sequences(kwargs.pop("until", None), eos=eos) if stop]
            limit = int(kwargs["max_gen_toks"])
            prompt = self.tok_encode(context, left_truncate_len=self.max_length - limit)
            (text,) = self.worker.answer([prompt], limit, stops)
            places = [text.find(stop) for stop in stops if stop in text]
            texts.append(text[: min(places)] if places else text)
        return texts
