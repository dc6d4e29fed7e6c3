"""Another transformers as a worker; see protocol.md."""

import torch
import transformers
from serve import serve
from transformers import AutoModelForCausalLM


class Worker:
    def __init__(self, model, options):
        torch.set_num_threads(options.get("threads", 1))
        dtype = getattr(torch, options.get("dtype", "float32"))
        self.model = AutoModelForCausalLM.from_pretrained(model, torch_dtype=dtype, attn_implementation="eager").eval()
        self.version = transformers.__version__
        self.max_length = options.get("max_model_len") or self.model.config.get_text_config().max_position_embeddings

    def generate(self, prompts, max_new_tokens, stop_ids):
        answers = []
        for ids in prompts:
            batch = torch.tensor([ids])  # [1, T]
            with torch.inference_mode():
                out = self.model.generate(
                    batch,
                    attention_mask=torch.ones_like(batch),
                    max_new_tokens=max_new_tokens,
                    do_sample=False,
                    eos_token_id=stop_ids or None,
                    pad_token_id=0,
                )
            answers.append(out[0, len(ids) :].tolist())
        return answers

    def score(self, rows):
        answers = []
        for context, continuation in rows:
            with torch.inference_mode():
                logits = self.model(torch.tensor([context + continuation])).logits[0].float()  # [T, V]
            logprobs = logits.log_softmax(-1)[len(context) - 1 : -1]  # [continuation, V]
            tokens = torch.tensor(continuation)
            answers.append(
                {
                    "logprob": float(logprobs.gather(-1, tokens[:, None]).sum()),
                    "greedy": bool((logprobs.argmax(-1) == tokens).all()),
                }
            )
        return answers


serve(Worker)
