"""Answers of a model that has transformers' `generate` and gives logits in torch; for workers of such runtimes."""

import torch


class TorchAnswers:
    """Needs `self.model`."""

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

    def predict(self, rows, top_k):
        answers = []
        for ids, first in rows:
            batch = torch.tensor([ids])  # [1, T]
            with torch.inference_mode():
                logits = self.model(batch, attention_mask=torch.ones_like(batch)).logits[0].float()  # [T, V]
            best = logits.log_softmax(-1)[first - 1 : -1].topk(top_k)  # [T - first, k]
            answers.append({"tokens": best.indices.tolist(), "log_probs": best.values.tolist()})
        return answers

    def score(self, rows):
        answers = []
        for context, continuation in rows:
            batch = torch.tensor([context + continuation])  # [1, T]
            with torch.inference_mode():
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
