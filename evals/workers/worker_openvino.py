"""OpenVINO as a worker, through optimum-intel, which converts the checkpoint while loading; see protocol.md."""

import openvino
import torch
from optimum.intel import OVModelForCausalLM
from serve import serve
from torch_answers import TorchAnswers


class Worker(TorchAnswers):
    def __init__(self, model, options):
        # Keys and values are kept in 8 bits unless asked otherwise: tokens a thousandth of a nat apart change places.
        settings = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
        settings["INFERENCE_NUM_THREADS"] = options.get("threads", 1)
        self.model = OVModelForCausalLM.from_pretrained(
            model, export=True, load_in_8bit=False, dtype=torch.float32, ov_config=settings
        )
        self.version = openvino.__version__.partition("-")[0]
        self.max_length = options.get("max_model_len") or self.model.config.get_text_config().max_position_embeddings


serve(Worker)
