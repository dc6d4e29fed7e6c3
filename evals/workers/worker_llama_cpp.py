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
        if options.get("dtype", "float32") == "float32":  # the default keeps keys and values in half precision
            params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
            params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self.server = xllamacpp.Server(params)
        self.version = getattr(xllamacpp, "__version__", "unknown")
        self.max_length = params.n_ctx
        self.vocabulary = options.get("vocabulary", 1 << 20)
        self.whole = range(2, 200)  # one of these is a whole character; once it is found, it alone

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
        for count in (FEW, self.vocabulary):
            for place, entry in enumerate(self._likeliest(ids, count)):
                if entry["id"] == token:
                    return entry["logprob"], place == 0
        raise RuntimeError(f"token {token} is not in the vocabulary of the GGUF")


serve(Worker)
