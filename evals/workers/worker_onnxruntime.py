"""ONNX Runtime GenAI as a worker; its model builder converts the checkpoint first; see protocol.md."""

import atexit
import shutil
import subprocess
import sys
import tempfile

import numpy as np
import onnxruntime_genai as og
from serve import serve


class Worker:
    def __init__(self, model, options):
        place = tempfile.mkdtemp(prefix="onnxruntime-")
        atexit.register(shutil.rmtree, place, ignore_errors=True)
        builder = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", model, "-o", place]
        done = subprocess.run([*builder, "-p", "fp32", "-e", "cpu", "-c", place], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr.strip().splitlines()[-1])
        self.model = og.Model(place)
        self.version = og.__version__
        self.max_length = options.get("max_model_len") or 2048

    def _start(self, ids, length):
        params = og.GeneratorParams(self.model)
        params.set_search_options(max_length=length, do_sample=False, batch_size=1)
        generator = og.Generator(self.model, params)
        generator.append_tokens(np.array([ids], dtype=np.int32))
        return generator

    def generate(self, prompts, max_new_tokens, stop_ids):
        answers = []
        for ids in prompts:
            generator, found = self._start(ids, len(ids) + max_new_tokens), []
            # Ends by itself at the end token of its own configuration.
            while not generator.is_done() and len(found) < max_new_tokens and not (found and found[-1] in stop_ids):
                generator.generate_next_token()
                found.append(int(generator.get_next_tokens()[0]))
            answers.append(found)
        return answers

    def score(self, rows):
        # Logits are given of the last position: a continuation is fed token by token.
        answers = []
        for context, continuation in rows:
            generator = self._start(context, len(context) + len(continuation) + 1)
            total, greedy = 0.0, True
            for i, token in enumerate(continuation):
                row = generator.get_output("logits")[0, -1].astype(np.float64)  # [V]
                total += row[token] - row.max() - np.log(np.exp(row - row.max()).sum())
                greedy &= int(row.argmax()) == token
                if i + 1 < len(continuation):
                    generator.append_tokens(np.array([[token]], dtype=np.int32))
            answers.append({"logprob": float(total), "greedy": bool(greedy)})
        return answers


serve(Worker)
