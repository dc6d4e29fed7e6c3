"""Another runtime's process, asked in token ids: the near end of `evals/workers/protocol.md`.

Knows nothing of text or tasks. The process is started in the runtime's own environment and ends with the `with` block.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from evals.errors import EvalError, EvalUsageError
from evals.runtimes import installed, python_of, untried

WORKERS = Path(__file__).parent / "workers"
RUNTIMES = {
    "vllm": "vllm",
    "llama.cpp": "llama_cpp",
    "mlx": "mlx",
    "ctranslate2": "ctranslate2",
    "transformers-4.57": "transformers",
    "transformers-4.51": "transformers",
    "openvino": "openvino",
    "onnxruntime": "onnxruntime",
}
"""Environment -> its worker, `workers/worker_NAME.py`."""
log = logging.getLogger(__name__)


def check_runtime(name: str) -> None:
    """Refuse a runtime that is unknown or not installed.

    Raises:
        EvalUsageError: with the cure.
    """
    if name not in RUNTIMES:
        raise EvalUsageError(f"runtime {name!r}: use one of {', '.join(RUNTIMES)}")
    if not installed(name):
        raise EvalUsageError(f"{name} is not installed here: run scripts/runtime {name}")


class Worker:
    """A model held by another runtime.

    Attributes:
        runtime: name of the environment.
        version: of the runtime, as it says itself.
        max_length: context in tokens.

    Raises:
        EvalUsageError: the runtime is not installed.
        EvalError: it cannot load the model; its last words are in the message.
    """

    def __init__(self, runtime: str, model: Path, options: Mapping[str, Any] | None = None) -> None:
        check_runtime(runtime)
        self.runtime = runtime
        self._log: IO[str] = tempfile.TemporaryFile("w+", encoding="utf8", errors="replace")  # noqa: SIM115 (until close)
        script = WORKERS / f"worker_{RUNTIMES[runtime]}.py"
        # The runtime must not see this project's libraries.
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
        self._process = subprocess.Popen(
            [str(python_of(runtime)), str(script), str(model), json.dumps(dict(options or {}))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            encoding="utf8",
            env=environment | {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"},
        )
        try:
            hello = self._read()
        except BaseException:
            self.close()
            raise
        self.version: str = hello["version"]
        self.max_length: int = int(hello["max_length"])
        if said := untried(runtime, self.version):
            log.warning(said)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def generate(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, stop_ids: Sequence[int] = ()
    ) -> list[list[int]]:
        """Greedy tokens of each prompt, a stop token included; [prompts][at most max_new_tokens]."""
        rows = [list(map(int, ids)) for ids in prompts]
        asked = {"op": "generate", "prompts": rows, "max_new_tokens": max_new_tokens, "stop_ids": list(stop_ids)}
        found: list[list[int]] = self._ask(asked)["ids"]
        return found

    def score(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[tuple[float, bool]]:
        """Log-likelihood in nats of each (context, continuation), and whether every token was the likeliest."""
        asked = {"op": "score", "rows": [{"context": list(c), "continuation": list(t)} for c, t in rows]}
        return [(float(row["logprob"]), bool(row["greedy"])) for row in self._ask(asked)["rows"]]

    def predict(
        self, rows: Sequence[tuple[Sequence[int], int]], top_k: int
    ) -> list[tuple[list[list[int]], list[list[float]]]]:
        """What is likely in the place of each token from a given one on.

        Args:
            rows: (token ids, number of the first token to predict, at least 1) each.
            top_k: k.

        Returns:
            Of each row, ([tokens][k] ids, [tokens][k] log-probabilities in nats), the likeliest first.
        """
        asked = {"op": "predict", "rows": [{"ids": list(ids), "first": first} for ids, first in rows], "top_k": top_k}
        return [(row["tokens"], row["log_probs"]) for row in self._ask(asked)["rows"]]

    def timed(self, prompt: Sequence[int], max_new_tokens: int, *, ignore_eos: bool = False) -> dict[str, Any]:
        """One greedy answer: `ids`, `seconds`, `new_tokens`, and of a draft's proposals `kept`, `tried`, `passes`."""
        asked = {"op": "timed", "prompt": list(map(int, prompt)), "max_new_tokens": max_new_tokens}
        return self._ask(asked | {"ignore_eos": ignore_eos})

    def close(self) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the answer says why it ended
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        answer = json.loads(line) if line else {"error": f"it ended without an answer: {self._last_words()}"}
        if "error" in answer:
            raise EvalError(f"{self.runtime}: {' '.join(str(answer['error']).split())[:400]}")
        return dict(answer)

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = [line.strip() for line in self._log.read()[-4000:].splitlines() if line.strip()]
        return lines[-1] if lines else "it said nothing"
