"""Another transformers as a worker; see protocol.md."""

import torch
import transformers
from serve import serve
from torch_answers import TorchAnswers
from transformers import AutoModelForCausalLM


class Worker(TorchAnswers):
    def __init__(self, model, options):
        torch.set_num_threads(options.get("threads", 1))
        dtype = getattr(torch, options.get("dtype", "float32"))
        self.model = AutoModelForCausalLM.from_pretrained(model, torch_dtype=dtype, attn_implementation="eager").eval()
        self.version = transformers.__version__
        self.max_length = options.get("max_model_len") or self.model.config.get_text_config().max_position_embeddings


serve(Worker)
