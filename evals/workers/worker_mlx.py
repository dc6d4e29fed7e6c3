"""mlx-lm as a worker; see protocol.md."""

from pathlib import Path

import mlx.core as mx
import mlx_lm
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model
from serve import serve


class Worker:
    def __init__(self, model, options):
        mx.set_default_device(mx.cpu)
        self.model, config = load_model(Path(model))
        if options.get("dtype", "float32") == "float32":
            self.model.set_dtype(mx.float32)
        self.version = mlx_lm.__version__
        self.max_length = options.get("max_model_len") or config.get("max_position_embeddings", 2048)

    def generate(self, prompts, max_new_tokens, stop_ids):
        answers = []
        for ids in prompts:
            cache, found, step = make_prompt_cache(self.model), [], ids
            for _ in range(max_new_tokens):
                token = int(mx.argmax(self.model(mx.array([step]), cache=cache)[0, -1]))
                found.append(token)
                if token in stop_ids:
                    break
                step = [token]
            answers.append(found)
        return answers

    def score(self, rows):
        answers = []
        for context, continuation in rows:
            logits = self.model(mx.array([context + continuation]))[0].astype(mx.float32)  # [T, V]
            logprobs = (logits - mx.logsumexp(logits, axis=-1, keepdims=True))[len(context) - 1 : -1]
            tokens = mx.array(continuation)
            taken = mx.take_along_axis(logprobs, tokens[:, None], axis=-1)
            greedy = mx.all(mx.argmax(logprobs, axis=-1) == tokens)
            answers.append({"logprob": float(taken.sum()), "greedy": bool(greedy)})
        return answers


serve(Worker)
