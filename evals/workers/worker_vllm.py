"""vLLM as a worker; see protocol.md."""

import os
import time

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
            **({"max_logprobs": options["top_k"]} if options.get("top_k") else {}),
            trust_remote_code=options.get("trust_remote_code", False),
            **({"max_model_len": length} if length else {}),
            **({"distributed_executor_backend": "uni"} if options.get("tensor_parallel_size", 1) == 1 else {}),
            **self._draft(options),
            **options.get("engine", {}),
        )
        self.version = vllm.__version__
        self.max_length = self.llm.llm_engine.model_config.max_model_len

    @staticmethod
    def _draft(options):
        if not options.get("draft"):
            return {}
        tokens = options["num_assistant_tokens"]
        config = {"method": "draft_model", "model": options["draft"], "num_speculative_tokens": tokens}
        return {"speculative_config": config, "disable_log_stats": False}  # the counts of proposals are statistics

    def _counts(self):
        """(passes with proposals, proposals kept at each place) so far."""
        try:
            found = {metric.name: metric for metric in self.llm.get_metrics()}
        except AssertionError:  # statistics are off: there is no draft
            return 0, [0]
        passes = found.get("vllm:spec_decode_num_drafts")
        kept = found.get("vllm:spec_decode_num_accepted_tokens_per_pos")
        return (passes.value if passes else 0), (list(kept.values) if kept and kept.values else [0])

    def timed(self, prompt, max_new_tokens, ignore_eos):
        params = SamplingParams(temperature=0.0, max_tokens=max_new_tokens, detokenize=False, ignore_eos=ignore_eos)
        before = self._counts()
        began = time.perf_counter()
        (out,) = self._run([prompt], params)
        seconds = time.perf_counter() - began
        after = self._counts()
        passes = after[0] - before[0]
        earlier = before[1] if len(before[1]) == len(after[1]) else [0] * len(after[1])
        kept = [b - a for a, b in zip(earlier, after[1], strict=True)]
        ids = list(out.outputs[0].token_ids)
        return {
            "ids": ids, "seconds": seconds, "new_tokens": len(ids), "kept": sum(kept),
            "tried": passes + sum(kept[:-1]), "passes": passes,
        }  # fmt: skip

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

    def predict(self, rows, top_k):
        params = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=top_k, detokenize=False, ignore_eos=True)
        answers = []
        for (_, first), out in zip(rows, self._run([ids for ids, _ in rows], params), strict=True):
            places = []
            for found in out.prompt_logprobs[first:]:  # the text's own token is there too, whatever its rank
                places.append(sorted((v.rank, token, v.logprob) for token, v in found.items() if v.rank <= top_k))
            answers.append({"tokens": [[token for _, token, _ in place[:top_k]] for place in places],
                            "log_probs": [[value for *_, value in place[:top_k]] for place in places]})  # fmt: skip
        return answers


serve(Worker)
