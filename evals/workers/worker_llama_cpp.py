"""llama.cpp through xllamacpp as a worker, on a GGUF file; see protocol.md.

Its server gives probabilities of what it generates, not of a prompt: a continuation is scored token by token, each step
generating one token after the prefix that its cache already holds.
"""

import json
import math
import time
import urllib.request

import xllamacpp
from serve import serve, tried_of

FEW = 64
"""Likeliest tokens asked for. The answer is JSON, so that a whole vocabulary of 262 thousand takes seconds a token."""
LIFTS = (15.0, 30.0, 45.0)
"""What is added to the logit of a token beyond the few, until it is among them."""
AHEAD = 25.0
"""How much further a whole character is lifted where half a one would be drawn."""


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
        # Prompts that the server keeps come back with sliding windows that have moved on: likelihoods off by 4 %.
        params.cache_ram_mib = params.n_ctx_checkpoints = 0
        if options.get("dtype", "float32") == "float32":  # the default keeps keys and values in half precision
            params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
            params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self.proposed = 0
        if options.get("draft"):
            self._add_draft(params, options)
        self.server = xllamacpp.Server(params)
        self.version = getattr(xllamacpp, "__version__", "unknown")
        self.max_length = params.n_ctx
        self.vocabulary = options.get("vocabulary", 1 << 20)
        self.whole = range(2, 200)  # one of these is a whole character; once it is found, it alone

    def _add_draft(self, params, options):
        """What `-md FILE --spec-type draft-simple --spec-draft-n-max N` does."""
        speculative, draft = params.speculative, params.speculative.draft
        speculative.types = [xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE]
        draft.mparams.path = options["draft"]
        draft.n_max = self.proposed = options["num_assistant_tokens"]
        draft.n_gpu_layers = 0
        draft.cpuparams.n_threads = draft.cpuparams_batch.n_threads = options.get("threads", 1)
        draft.cache_type_k, draft.cache_type_v = params.cache_type_k, params.cache_type_v

    def timed(self, prompt, max_new_tokens, ignore_eos):
        asked = {
            "prompt": prompt, "n_predict": max_new_tokens, "temperature": 0.0, "cache_prompt": False,
            "return_tokens": True, "ignore_eos": ignore_eos,
        }  # fmt: skip
        request = urllib.request.Request(
            self.server.listening_address + "/completion",
            json.dumps(asked).encode(),
            {"Content-Type": "application/json"},
        )
        began = time.perf_counter()
        with urllib.request.urlopen(request) as answer:
            found = json.load(answer)
        seconds = time.perf_counter() - began
        timings, count = found["timings"], found["timings"]["predicted_n"]
        kept = timings.get("draft_n_accepted", 0)
        passes = count - kept if self.proposed else 0  # the first is the prompt's, before anything is proposed
        return {
            "ids": found["tokens"], "seconds": seconds, "new_tokens": count, "kept": kept,
            "tried": tried_of(kept, max(0, passes - 1), self.proposed), "passes": passes,
        }  # fmt: skip

    def _likeliest(self, ids, count):
        """The `count` likeliest next tokens: [{"id", "logprob"}], by the model's own probabilities.

        The server answers in text: an end token comes without probabilities, and so does half a character. Sampling is
        kept from both, which changes no probability.
        """
        asked = {"prompt": ids, "n_predict": 1, "temperature": 0.0, "n_probs": count, "cache_prompt": True}
        for token in (None, *self.whole):
            bias = [] if token is None else [[token, 1000.0]]
            found = self.server.handle_completions(asked | {"ignore_eos": True, "logit_bias": bias})
            if "error" in found:
                raise RuntimeError(str(found["error"]))
            rows = (found["choices"][0]["logprobs"] or {}).get("content") or []
            if rows:
                if token is not None:
                    self.whole = [token]
                return rows[0]["top_logprobs"]
        raise RuntimeError("the server gave no probabilities")

    def generate(self, prompts, max_new_tokens, stop_ids):
        answers = []
        for ids in prompts:
            found = []
            while len(found) < max_new_tokens and not (found and found[-1] in stop_ids):
                found.append(self._likeliest(ids + found, 1)[0]["id"])
            answers.append(found)
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
        """Log-probability of the next token, and whether it is the likeliest."""
        found = self._likeliest(ids, FEW)
        for place, entry in enumerate(found):
            if entry["id"] == token:
                return entry["logprob"], place == 0
        below = self._below(ids, token, found[0]["id"])
        if below is not None:
            return found[0]["logprob"] + below, False
        for entry in self._likeliest(ids, self.vocabulary):
            if entry["id"] == token:
                return entry["logprob"], False
        raise RuntimeError(f"token {token} is not in the vocabulary of the GGUF")

    def _below(self, ids, token, top):
        """log p(token) - log p(top) of a token that is not among the few: its logit is lifted until it is.

        The ratio of two probabilities after the lift, less the lift, is the ratio before. None where none shows both.
        """
        asked = {"prompt": ids, "n_predict": 1, "temperature": 1.0, "n_probs": FEW, "cache_prompt": True}
        asked |= {"samplers": ["temperature"], "post_sampling_probs": True, "ignore_eos": True}
        for lift in LIFTS:
            for whole in (None, *(other for other in self.whole if other not in (token, top))):
                ahead = [] if whole is None else [[whole, lift + AHEAD]]
                found = self.server.handle_completions(asked | {"logit_bias": [[token, lift], *ahead]})
                rows = (found["choices"][0]["logprobs"] or {}).get("content") or [] if "choices" in found else []
                if rows:
                    break
            chances = {entry["id"]: entry["prob"] for row in rows for entry in row["top_probs"]}
            if token in chances and top in chances:
                return math.log(chances[token] / chances[top]) - lift
        return None


serve(Worker)
