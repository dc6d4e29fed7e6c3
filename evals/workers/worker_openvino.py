"""OpenVINO as a worker, through optimum-intel, which converts the checkpoint while loading; see protocol.md."""

import openvino
import torch
from optimum.intel import OVModelForCausalLM
from serve import serve


class Worker:
    def __init__(self, model, options):
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": options.get("threads", 1)}
        self.model = OVModelForCausalLM.from_pretrained(
            model, export=True, load_in_8bit=False, dtype=torch.float32, ov_config=settings
        )
        self.version = openvino.__version__.partition("-")[0]
        self.max_length = options.get("max_model_len") or self.model.config.get_text_config().max_position_embeddings

    def generate(self, prompts, max_new_tokens, stop_ids):
        answers = []
        for ids in prompts:
            batch = torch.tensor([ids])  # [1, T]
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
            batch = torch.tensor([context + continuation])  # [1, T]
            logits = self.model(batch, attention_mask=torch.ones_like(batch)).logits[0].float()  # [T, V]
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
