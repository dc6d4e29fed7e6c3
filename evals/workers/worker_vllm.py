"""vLLM as a worker; see protocol.md."""

import os

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")

import vllm
from serve import serve
from vllm import LLM, SamplingParams


class Worker:
    def __init__(self, model, options):
        length = options.get("max_model_len")
        self.llm = LLM(
            model=model,
            dtype=options.get("dtype", "float32"),
            enforce_eager=options.get("enforce_eager", True),
            max_num_seqs=options.get("batch_size", 8),
            tensor_parallel_size=options.get("tensor_parallel_size", 1),
            enable_prefix_caching=False,
            skip_tokenizer_init=True,
            trust_remote_code=options.get("trust_remote_code", False),
            **({"max_model_len": length} if length else {}),
            **({"distributed_executor_backend": "uni"} if options.get("tensor_parallel_size", 1) == 1 else {}),
            **options.get("engine", {}),
        )
        self.version = vllm.__version__
        self.max_length = self.llm.llm_engine.model_config.max_model_len

    def _run(self, prompts, params):
        rows = [{"prompt_token_ids": ids} for ids in prompts]
        return self.llm.generate(rows, params, use_tqdm=False)

    def generate(self, prompts, max_new_tokens, stop_ids):
        params = SamplingParams(
            temperature=0.0, max_tokens=max_new_tokens, stop_token_ids=stop_ids, detokenize=False, ignore_eos=True
        )
        return [list(out.outputs[0].token_ids) for out in self._run(prompts, params)]

    def score(self, rows):
        # One token more is always generated; its own probability is not asked for.
        params = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=1, detokenize=False, ignore_eos=True)
        answers = []
        outputs = self._run([c + t for c, t in rows], params)
        for (context, continuation), out in zip(rows, outputs, strict=True):
            found = [out.prompt_logprobs[len(context) + i][token] for i, token in enumerate(continuation)]
            answers.append({"logprob": sum(f.logprob for f in found), "greedy": all(f.rank == 1 for f in found)})
        return answers


serve(Worker)
