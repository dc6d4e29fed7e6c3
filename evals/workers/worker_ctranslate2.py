"""CTranslate2 as a worker: converts into a temporary directory first; see protocol.md."""

import json
import tempfile
from pathlib import Path

import ctranslate2
import numpy as np
from ctranslate2.converters import TransformersConverter
from serve import serve


class Worker:
    def __init__(self, model, options):
        self.place = tempfile.TemporaryDirectory()
        converted = self.place.name + "/model"
        TransformersConverter(model, load_as_float16=False).convert(converted)
        kind = options.get("dtype", "float32")
        self.generator = ctranslate2.Generator(
            converted, compute_type=kind, inter_threads=1, intra_threads=options.get("threads", 1)
        )
        self.tokens = json.loads(Path(converted, "vocabulary.json").read_text(encoding="utf8"))  # by id
        self.ids = {token: i for i, token in enumerate(self.tokens)}
        self.version = ctranslate2.__version__
        self.max_length = options.get("max_model_len") or 2048

    def _logprobs(self, ids):
        found = self.generator.forward_batch([ids], return_log_probs=True)
        return np.array(ctranslate2.StorageView.to_device(found, ctranslate2.Device.cpu), dtype=np.float32)[0]  # [T, V]

    def generate(self, prompts, max_new_tokens, stop_ids):
        # With no stop token given it ends at the end token of the model's own configuration.
        options = {"end_token": list(stop_ids)} if stop_ids else {}
        answers = []
        for ids in prompts:
            text = [self.tokens[i] for i in ids]  # the program's own tokens: a tokenizer's are not always the same
            if [self.ids[token] for token in text] != ids:
                raise RuntimeError("two tokens of the prompt have one name in its vocabulary")
            (result,) = self.generator.generate_batch(
                [text], max_length=max_new_tokens, include_prompt_in_result=False, return_end_token=True, **options
            )
            answers.append(result.sequences_ids[0])
        return answers

    def score(self, rows):
        answers = []
        for context, continuation in rows:
            logprobs = self._logprobs(context + continuation)[len(context) - 1 : -1]
            taken = logprobs[np.arange(len(continuation)), continuation]
            answers.append({"logprob": float(taken.sum()), "greedy": bool((logprobs.argmax(-1) == continuation).all())})
        return answers


serve(Worker)
