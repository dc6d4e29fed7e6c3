"""What makes two models' answers interchangeable: one digest over everything that can change an answer."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from evals.weights import weights

READ_BYTES = 1 << 24
NOT_READ_BY_A_MODEL = {".md", ".html", ".png", ".svg", ".lock"}


def fingerprint(model: Any, tokenizer: Any) -> str:
    """Hex digest of everything that can change an answer: weights (an adapter's too), config, dtype, vocabulary,
    chat template and library versions."""
    import torch

    digest = hashlib.blake2b(digest_size=16)
    for name, value in weights(model):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.contiguous().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    config = {k: v for k, v in model.config.to_dict().items() if k not in {"_name_or_path", "transformers_version"}}
    described = {
        "config": config,
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "template": getattr(tokenizer, "chat_template", None),
        "class": type(model).__name__,
        "attention": getattr(model.config, "_attn_implementation", None),
        "versions": _versions(),
    }
    digest.update(json.dumps(described, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def directory_fingerprint(directory: Path, options: dict[str, Any]) -> str:
    """The same for a checkpoint (directory or file) that another program loads: files, options, library versions."""
    digest = hashlib.blake2b(json.dumps([options, _versions()], sort_keys=True, default=str).encode(), digest_size=16)
    for path in [directory] if directory.is_file() else sorted(directory.rglob("*")):
        if path.is_file() and path.suffix not in NOT_READ_BY_A_MODEL:
            digest.update(f"{path.relative_to(directory)}\n".encode())
            with path.open("rb") as handle:
                while block := handle.read(READ_BYTES):
                    digest.update(block)
    return digest.hexdigest()


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """Hex digest of how a tokenizer turns text into numbers."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    rules = json.loads(fast.to_str()) if fast is not None else {"class": type(tokenizer).__name__}
    for state in ("padding", "truncation"):  # change with every call
        rules.pop(state, None)
    described = {
        "vocabulary": sorted(tokenizer.get_vocab().items()),
        "special": {k: str(v) for k, v in tokenizer.special_tokens_map.items()},
        "rules": rules,
    }
    return hashlib.blake2b(json.dumps(described, sort_keys=True, default=str).encode(), digest_size=16).hexdigest()


def _versions() -> list[str]:
    import lm_eval
    import torch
    import transformers

    return [lm_eval.__version__, transformers.__version__, torch.__version__]
