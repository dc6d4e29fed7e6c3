"""A server with OpenAI's interface gives the figures of the same model in this process; what it keeps back is told."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import prune
from evals.completions import CompletionsServer
from evals.errors import EvalError, EvalUsageError
from evals.harness import run_tasks
from tests.evals.test_served import SPECS, agree

SECRET = "sk-abcdefghijklmnopqrstuvwx0123"


class Server(ThreadingHTTPServer):
    """Serves one model, as it is told to."""

    model: Any
    tokenizer: Any
    mood = ""
    seen: list[dict[str, Any]]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: Any) -> None:
        return

    def do_GET(self) -> None:
        self._say({"data": [{"id": "tiny", "max_model_len": 64}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append({**body, "key": self.headers["Authorization"]})
        mood = self.server.mood
        if mood == "locked":
            self._say({"error": SECRET}, 401)
        elif mood == "busy":
            self.server.mood = ""
            self._say({"error": "busy"}, 503)
        elif mood == "elsewhere":
            self.send_response(302)
            self.send_header("Location", "http://localhost:1/v1")
            self.end_headers()
        else:
            choices = [self._choice(index, ids, body) for index, ids in enumerate(body["prompt"])]
            self._say(
                {"choices": choices, "usage": {"prompt_tokens": sum(map(len, body["prompt"])) - (mood == "short")}}
            )

    def _choice(self, index: int, ids: list[int], body: dict[str, Any]) -> dict[str, Any]:
        model, tokenizer = self.server.model, self.server.tokenizer
        if body.get("echo"):
            logp = model(torch.tensor([ids])).logits[0].log_softmax(-1)  # [T, V]
            own = [None, *logp[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0].tolist(), 0.0]
            top = [None, *({"best": value} for value in logp.max(-1).values.tolist())]
            return {"index": index, "logprobs": None if self.server.mood == "mute" else {
                "token_logprobs": own, "top_logprobs": top}}  # fmt: skip
        new = model.generate(torch.tensor([ids]), max_new_tokens=body["max_tokens"], do_sample=False, pad_token_id=0)
        text = tokenizer.decode(new[0, len(ids) :])
        for stop in body.get("stop", ()):
            text = text.split(stop)[0]
        return {"index": index, "text": text}

    def _say(self, value: dict[str, Any], code: int = 200) -> None:
        data = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def server(model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.setattr("evals.completions.WAIT", 0.01)
    found = Server(("127.0.0.1", 0), Handler)
    found.model, found.tokenizer, found.seen = model, tokenizer, []
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield found
    found.shutdown()
    found.server_close()


def address(server: Server) -> str:
    return f"http://127.0.0.1:{server.server_port}/v1"


@pytest.fixture
def directory(model: Any, tokenizer: Any, tmp_path: Path) -> Path:
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_server_scores_as_the_same_model_in_this_process(
    server: Server, directory: Path, model: Any, tokenizer: Any, task_dir: Path, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"include_path": [task_dir], "batch_size": 4, "limit": 6}
    server.mood = "busy"  # once
    served = run_tasks(
        directory, tokenizer, SPECS, backend="openai", model_args={"base_url": address(server)},
        cache_dir=tmp_path / "kept", **settings,
    )  # fmt: skip
    own = run_tasks(model, tokenizer, SPECS, max_length=64, **settings)
    assert not served.failures
    agree(served, own, 1e-4)
    assert {request["key"] for request in server.seen} == {f"Bearer {SECRET}"}
    written = [path for path in tmp_path.rglob("*") if path.is_file() and directory not in path.parents]
    assert written
    assert not any(SECRET.encode() in path.read_bytes() for path in written)


@pytest.mark.parametrize(
    ("mood", "message"),
    [
        ("short", "shortens prompts: 3 tokens were sent, 2 were read"),
        ("mute", "gives no likelihoods of the prompt's tokens"),
        ("locked", "refuses the key .401.: set OPENAI_API_KEY"),
        ("elsewhere", "error 302"),
    ],
)
def test_what_a_server_keeps_back_is_told_without_the_key(server: Server, mood: str, message: str) -> None:
    asked = CompletionsServer(address(server), "tiny", {})
    assert asked.max_length == 64
    server.mood = mood
    with pytest.raises(EvalError, match=message) as error:
        asked.score([([1, 2], [3])])
    assert SECRET not in str(error.value)


def test_an_address_or_a_model_that_is_not_there_is_named(server: Server) -> None:
    assert CompletionsServer(address(server), "some/directory", {}).model == "tiny"  # the only one
    with pytest.raises(EvalUsageError, match="serves no model 'other', but tiny"):
        CompletionsServer(address(server), "tiny", {"model": "other"})
    with pytest.raises(EvalUsageError, match="give a web address"):
        CompletionsServer("localhost:8000", "tiny", {})
    with pytest.raises(EvalError, match="no such server answers there"):
        CompletionsServer("http://127.0.0.1:9/v1", "tiny", {})


def test_prune_eval_judges_two_servers_as_it_judges_two_directories(
    server: Server, directory: Path, model: Any, other_model: Any, tokenizer: Any, task_dir: Path, tmp_path: Path
) -> None:
    other_model.save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    second = Server(("127.0.0.1", 0), Handler)
    second.model, second.tokenizer, second.seen = other_model, tokenizer, []
    threading.Thread(target=second.serve_forever, daemon=True).start()
    asked: dict[str, Any] = {"tasks": ["tiny_choice", "tiny_generate"], "include_path": [task_dir], "limit": 8}
    models = {"baseline": str(directory), "model": str(tmp_path / "other")}
    try:
        served = prune.eval(
            **models, **asked, output=tmp_path / "served", backend="openai", seed=1,
            base_url=f"{address(second)},{address(server)}",
        )  # fmt: skip
    finally:
        second.shutdown()
        second.server_close()
    plain = prune.eval(**models, **asked, output=tmp_path / "plain", seed=1)
    found, expected = (
        [(s.name, s.verdict, [(t.task, t.n, t.original, t.candidate) for t in s.tasks]) for s in evidence.suites]
        for evidence in (served, plain)
    )
    assert found == expected
    assert server.seen
    assert second.seen
    assert (served.original_backend, served.candidate_backend) == ("openai", "openai")
    assert plain.candidate_backend == f"transformers {transformers.__version__}"
    assert '"candidate_backend": "openai"' in (tmp_path / "served/evidence.json").read_text(encoding="utf8")
    assert not any(SECRET.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
