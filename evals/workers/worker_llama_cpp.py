"""llama.cpp through xllamacpp as a worker, on a GGUF file; see protocol.md.

Its server gives probabilities of what it generates, not of a prompt: a continuation is scored token by token, each step
generating one token after the prefix that its cache already holds.
"""

import xllamacpp
from serve import serve

FEW = 64
"""Likeliest tokens asked for first; a token beyond them costs one more step, with all of them."""


class Worker:
    def __init__(self, model, options):
        params = xllamacpp.CommonParams()
        params.model.path = model
        params.n_ctx = options.get("max_model_len") or 2048
        params.n_parallel = 1
        params.warmup = False
        params.n_gpu_layers = 0
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options.get("threads", 1)
        params.ctx_shift = False
        self.server = xllamacpp.Server(params)
        self.version = getattr(xllamacpp, "__version__", "unknown")
        self.max_length = params.n_ctx
        self.vocabulary = options.get("vocabulary", 1 << 20)

    def _ask(self, ids, count, probabilities, **more):
        """The generated tokens, each with the likeliest ones at its place, and whether the end of text stopped it."""
        asked = {"prompt": ids, "n_predict": count, "temperature": 0.0, "n_probs": probabilities, "cache_prompt": True}
        found = self.server.handle_completions(asked | more)
        if "error" in found:
            raise RuntimeError(str(found["error"]))
        choice = found["choices"][0]
        rows = (choice["logprobs"] or {}).get("content") or []  # none where the first token is the end of text
        return rows, choice["finish_reason"] == "stop"

    def generate(self, prompts, max_new_tokens, stop_ids):
        answers = []
        for ids in prompts:
            rows, ended = self._ask(ids, max_new_tokens, 1)
            tokens = [row["id"] for row in rows]
            end = next((i + 1 for i, token in enumerate(tokens) if token in stop_ids), None)
            # The server leaves the end token out that stopped it.
            answers.append(tokens[:end] if end or not ended else [*tokens, *stop_ids[:1]])
        return answers

    def score(self, rows):
        answers = []
        for context, continuation in rows:
            total, greedy = 0.0, True
            for i, token in enumerate(continuation):
                logprob, first = self._step(context + continuation[:i], token)
                total, greedy = total + logprob, greedy and first
            answers.append({"logprob": total, "greedy": greedy})
        return answers

    def _step(self, ids, token):
        for count in (FEW, self.vocabulary):
            # Probabilities are those of the model, whatever may be sampled; an end token would come without any.
            rows, _ = self._ask(ids, 1, count, ignore_eos=True)
            for place, entry in enumerate(rows[0]["top_logprobs"]):
                if entry["id"] == token:
                    return entry["logprob"], place == 0
        raise RuntimeError(f"token {token} is not in the vocabulary of the GGUF")


serve(Worker)
