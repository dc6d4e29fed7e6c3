"""Loading checkpoints so that nothing is silently random, missing or remote.

transformers only warns when config and weights disagree; here any missing, unexpected or mismatched tensor is an
error. Half-precision weights are computed in float32 on CPU, where bfloat16 products are about twenty times slower.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.errors import PruneError, UsageError
from prune.model.chat_template import check_chat_template

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

EMBEDDED = "embedded"
"""The name that stands for the demo model."""
DTYPES = ("auto", "float32", "bfloat16", "float16")
CONSTANTS = re.compile(
    r"(^|\.)((attn|attention|attn\.attention)\.(bias|masked_bias|causal_mask)"
    r"|rotary_emb\.inv_freq|embed_positions\.weights|position_ids)$"
)
"""Masks, frequencies and positions that older versions saved and every later one computes."""


def check_local(model: str) -> None:
    """Refuse a local path that is no checkpoint, before anything slow is imported.

    A name of the form `org/name` whose first part is no directory here is taken as a hub id.

    Raises:
        UsageError: a missing directory, or a directory without config.json.
    """
    path = Path(model)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UsageError(f"{model}: no config.json there; give the directory of a transformers checkpoint")
    elif path.exists():
        raise UsageError(f"{model}: is a file; give the directory of a transformers checkpoint")
    elif path.is_absolute() or model.startswith(".") or model.count("/") != 1 or path.parent.is_dir():
        raise UsageError(f"{model}: no such model directory")


def model_directory(model: str) -> str:
    """The directory or hub id behind a model as users name it, which may be `embedded`, the demo model.

    Raises:
        UsageError: see `check_local`.
    """
    if model == EMBEDDED:
        from prune.embedded import MODEL

        return str(MODEL)
    check_local(model)
    return model


def resolve_dtype(dtype: str) -> torch.dtype | str:
    """A torch dtype from its name; `auto` is the checkpoint's own on an accelerator and float32 on CPU.

    Raises:
        UsageError: unknown name.
    """
    import torch

    if dtype not in DTYPES:
        raise UsageError(f"--dtype {dtype!r}: use one of {', '.join(DTYPES)}")
    if dtype == "auto":
        return "auto" if torch.cuda.is_available() else torch.float32
    return getattr(torch, dtype)


def unaccounted(unexpected: Iterable[Any]) -> list[str]:
    """The tensors of a checkpoint that no model has a place for, without the constants that older versions saved."""
    return sorted(name for name in map(str, unexpected) if not CONSTANTS.search(name))


def load_model(
    model: str,
    *,
    dtype: str = "float32",
    device: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    **options: Any,
) -> PreTrainedModel:
    """A causal language model in eval mode, with every tensor accounted for.

    Args:
        model: directory or hub id.
        dtype: `auto`, `float32`, `bfloat16` or `float16`.
        device: torch device; CUDA when there is one.
        revision: of a hub id.
        trust_remote_code: run the repository's own modelling code.
        options: passed to `from_pretrained` (quantization_config, attn_implementation ...).

    Raises:
        UsageError: no such directory.
        PruneError: not a causal language model, or tensors missing, unexpected or mismatched.
    """
    check_local(model)
    import torch
    from transformers import AutoModelForCausalLM

    try:
        loaded, info = AutoModelForCausalLM.from_pretrained(
            model,
            dtype=resolve_dtype(dtype),
            revision=revision,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            **options,
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise PruneError(f"{model}: cannot be loaded as a causal language model: {first_line}") from error
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        names = unaccounted(info[kind]) if kind == "unexpected_keys" else sorted(map(str, info[kind]))
        if names:
            shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            raise PruneError(f"{model}: {kind.replace('_', ' ')}: {shown}; config.json and the weights disagree")
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if "device_map" not in options and not getattr(loaded, "is_quantized", False):
        loaded.to(device)
    return loaded.eval()


def load_tokenizer(model: str, *, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """The checkpoint's tokenizer.

    Raises:
        PruneError: it has none, it cannot be read, or its chat template does not come to an end.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model, revision=revision, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise PruneError(f"{model}: its tokenizer cannot be loaded: {str(error).splitlines()[0]}") from error
    check_chat_template(tokenizer, model)
    return tokenizer
