"""CTranslate2 as a worker: converts into a temporary directory first; see protocol.md."""

import tempfile

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
        self.version = ctranslate2.__version__
        self.max_length = options.get("max_model_len") or 2048

    def _logprobs(self, ids):
        found = self.generator.forward_batch([ids], return_log_probs=True)
        return np.array(ctranslate2.StorageView.to_device(found, ctranslate2.Device.cpu), dtype=np.float32)[0]  # [T, V]

    def generate(self, prompts, max_new_tokens, stop_ids):
        answers = []
        for ids in prompts:
            found = []
            # By ids and without the vocabulary: its tokens as text are not always those of the tokenizer.
            while len(found) < max_new_tokens and not (found and found[-1] in stop_ids):
                found.append(int(self._logprobs(ids + found)[-1].argmax()))
            answers.append(found)
        return answers

    def score(self, rows):
        answers = []
        for context, continuation in rows:
            logprobs = self._logprobs(context + continuation)[len(context) - 1 : -1]
            taken = logprobs[np.arange(len(continuation)), continuation]
            answers.append({"logprob": float(taken.sum()), "greedy": bool((logprobs.argmax(-1) == continuation).all())})
        return answers


serve(Worker)
