"""What makes two models' answers interchangeable: one digest over everything that can change an answer."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def fingerprint(model: Any, tokenizer: Any) -> str:
    """Hex digest of everything that can change an answer: weights (an adapter's too), config, dtype, vocabulary,
    chat template and library versions."""
    import lm_eval
    import torch
    import transformers

    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        value = tensor.detach()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.contiguous().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    config = {k: v for k, v in model.config.to_dict().items() if k not in {"_name_or_path", "transformers_version"}}
    described = {
        "config": config,
        "vocabulary": sorted(tokenizer.get_vocab().items()),
        "special": {k: str(v) for k, v in tokenizer.special_tokens_map.items()},
        "template": getattr(tokenizer, "chat_template", None),
        "class": type(model).__name__,
        "versions": [lm_eval.__version__, transformers.__version__, torch.__version__],
    }
    digest.update(json.dumps(described, sort_keys=True, default=str).encode())
    return digest.hexdigest()
