"""Loading checkpoints so that nothing is silently random, missing, stale or remote.

Every model and tokenizer comes through the door of `prune.checkpoint.source`. transformers only warns when config and
weights disagree; here any missing, unexpected, mismatched or non-finite tensor is an error. Half-precision weights are
computed in float32 on CPU, where bfloat16 products are about twenty times slower.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.checkpoint.directory import read_json
from prune.checkpoint.source import Source, resolve
from prune.errors import PruneError, UsageError
from prune.model.chat_template import check_chat_template
from prune.model.placement import Placed

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

DTYPES = ("auto", "float32", "bfloat16", "float16")
CONSTANTS = re.compile(
    r"(^|\.)((attn|attention|attn\.attention)\.(bias|masked_bias|causal_mask)"
    r"|rotary_emb\.inv_freq|embed_positions\.weights|position_ids)$"
)
"""Masks, frequencies and positions that older versions saved and every later one computes."""
ATTENTION = re.compile(
    r"attn_implementation|attention implementation|flash.?att|flex.?att|scaled_dot_product", re.IGNORECASE
)
"""What transformers writes where it cannot compute attention as asked."""
TOKENIZER_FILE = re.compile(r"tokenizer|^vocab|^merges|^tekken|\.model$|\.tiktoken$|^spiece|bpe")
"""Names of the files that tokenizers of all kinds are kept in."""


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


def computed_dtype(source: Source) -> str:
    """The type that a source's model is computed in on this machine, by name, whatever it was asked as."""
    import torch

    wanted = resolve_dtype(source.dtype)
    if isinstance(wanted, str):
        wanted = load_config(source).get_text_config().dtype or torch.float32
    return str(wanted).removeprefix("torch.")


def arithmetic(source: Source) -> dict[str, str]:
    """What decides the last bits of a source's results on this machine, by the names of the options."""
    chosen = source.attn_implementation
    return {"dtype": computed_dtype(source)} | ({} if chosen is None else {"attn_implementation": chosen})


def check_attention(source: Source) -> None:
    """Refuse a kind of attention that this machine can start with and not end.

    Raises:
        UsageError: names the flag.
    """
    import torch

    if source.attn_implementation == "flex_attention" and not torch.accelerator.is_available():
        raise UsageError("--attn_implementation flex_attention: cannot train on a CPU; give sdpa or eager")


def unaccounted(unexpected: Iterable[Any]) -> list[str]:
    """The tensors of a checkpoint that no model has a place for, without the constants that older versions saved."""
    return sorted(name for name in map(str, unexpected) if not CONSTANTS.search(name))


def load_model(
    model: str | Path | Source,
    *,
    dtype: str | None = None,
    device: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    allow_links: bool = False,
    **options: Any,
) -> PreTrainedModel:
    """A causal language model in eval mode, with every tensor accounted for and finite.

    Args:
        model: a source; or directory, hub id or `embedded`, which is resolved with the next arguments.
        dtype: `auto`, `float32`, `bfloat16` or `float16`; the source's own if None.
        device: torch device; if None, as the source is placed, else CUDA when there is one.
        revision, trust_remote_code, allow_links: see `prune.checkpoint.source.resolve`.
        options: passed to `from_pretrained` (quantization_config, attn_implementation ...).

    Raises:
        UsageError: no such directory.
        PruneError: not a causal language model, unsafe or contradictory files, tensors missing, unexpected, mismatched
            or not finite, or files that changed while they were read.
    """
    source = resolve(model, revision=revision, trust_remote_code=trust_remote_code, allow_links=allow_links)
    source.require_unchanged()
    import torch

    placed = Placed(source.placement) if device is None and source.placement is not None else None
    if placed is not None:
        options |= placed.options
    if source.attn_implementation is not None:
        check_attention(source)
        options.setdefault("attn_implementation", source.attn_implementation)
    loaded, info = _read(source, resolve_dtype(dtype or source.dtype), options)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        names = unaccounted(info[kind]) if kind == "unexpected_keys" else sorted(map(str, info[kind]))
        if names:
            shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            raise PruneError(f"{source.id}: {kind.replace('_', ' ')}: {shown}; config.json and the weights disagree")
    require_finite(source.id, loaded.state_dict())
    for name, tensor in placed.settle(source, loaded) if placed is not None else ():
        require_finite(source.id, {name: tensor})
    source.require_unchanged()
    stamp_config(loaded.config, source)
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if "device_map" not in options and not getattr(loaded, "is_quantized", False):
        loaded.to(device)
    return loaded.eval()


def _read(source: Source, dtype: torch.dtype | str, options: dict[str, Any]) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The model, and what of its tensors had no place."""
    from prune.model.deci import KIND, load_deci

    if source.checkpoint.config.get("model_type") == KIND:
        if "device_map" in options:
            raise UsageError("--device_map: a model without some sub-layers is loaded on one device; leave it out")
        return load_deci(source, dtype, options.get("attn_implementation")), {
            "missing_keys": [],
            "unexpected_keys": [],
            "mismatched_keys": [],
        }
    from transformers import AutoModelForCausalLM

    try:
        found: tuple[PreTrainedModel, dict[str, Any]] = AutoModelForCausalLM.from_pretrained(
            str(source.directory),
            dtype=dtype,
            trust_remote_code=source.trust_remote_code,
            output_loading_info=True,
            **options,
        )
    except PruneError:
        raise
    except Exception as error:  # validation of configurations alone raises a dozen kinds
        raise not_loaded(source.id, error, source.attn_implementation) from error
    return found


def load_config(model: str | Path | Source) -> PreTrainedConfig:
    """The configuration of a source, as transformers understands it.

    Raises:
        PruneError: its class refuses it.
    """
    from transformers import AutoConfig

    source = resolve(model)
    try:
        config = AutoConfig.from_pretrained(str(source.directory), trust_remote_code=source.trust_remote_code)
    except Exception as error:  # validation raises a dozen kinds
        raise not_loaded(source.id, error) from error
    stamp_config(config, source)
    return config


def stamp_config(config: PreTrainedConfig, source: Source) -> None:
    """Let a configuration say where it comes from, not where its files lie in the hub's cache."""
    if source.revision:
        config._commit_hash = source.revision
        config.name_or_path = source.id


def not_loaded(name: str, error: Exception, attention: str | None = None) -> PruneError:
    """What a library's refusal of a model amounts to.

    Args:
        attention: the implementation that was asked for.
    """
    reason = told(error)
    if attention is not None and ATTENTION.search(str(error)):
        return PruneError(
            f"{name}: --attn_implementation {attention}: {reason.rstrip('.')}; give another one, or leave it out"
        )
    if "trust_remote_code" in str(error):
        reason = "it needs modelling code of its own: give --trust_remote_code if you have read that code"
    return PruneError(f"{name}: cannot be loaded as a causal language model: {reason}")


def told(error: Exception) -> str:
    """A library's whole message on one line, at most 300 characters of it; with its kind where that says more."""
    text, kind = " ".join(str(error).split())[:300], type(error).__name__
    return text if text and isinstance(error, OSError | ValueError | RuntimeError) else f"{kind}: {text}".strip(": ")


def require_finite(name: str, tensors: Mapping[str, torch.Tensor]) -> None:
    """Refuse weights that hold NaN or infinite values.

    Raises:
        PruneError: names the tensor.
    """
    import torch

    seen = set()
    for key, tensor in tensors.items():
        plain = tensor.is_floating_point() and tensor.element_size() > 1 and tensor.numel() and not tensor.is_meta
        if not plain or (place := (tensor.data_ptr(), tensor.shape)) in seen:
            continue
        seen.add(place)  # tied weights are one tensor
        if not bool(torch.isfinite(torch.stack(torch.aminmax(tensor.detach()))).all()):
            kind = str(tensor.dtype).removeprefix("torch.")
            raise PruneError(
                f"{name}: tensor {key} holds NaN or infinite values (read as {kind}): download the weights again, or"
                " give a wider --dtype"
            )


def load_tokenizer(
    model: str | Path | Source,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    allow_links: bool = False,
) -> Any:
    """The checkpoint's tokenizer.

    Args: as for `load_model`.

    Raises:
        UsageError: no such directory.
        PruneError: it has none, it cannot be read, or its chat template does not come to an end.
    """
    source = resolve(model, revision=revision, trust_remote_code=trust_remote_code, allow_links=allow_links)
    if not has_tokenizer(source):
        raise PruneError(
            f"{source.id}: there is no tokenizer (tokenizer.json, tokenizer.model, vocab.json ...): copy the tokenizer"
            " files of the original model into the directory"
        )
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(source.directory), trust_remote_code=source.trust_remote_code)
    except Exception as error:  # the Rust library raises plain exceptions
        for name in sorted(source.checkpoint.companions):
            if name.endswith(".json"):
                read_json(source.checkpoint.companions[name])  # names a file that is no JSON
        raise PruneError(
            f"{source.id}: its tokenizer files cannot be read: {told(error)}; copy them from the original model again"
        ) from error
    check_chat_template(tokenizer, source.id)
    return tokenizer


def has_tokenizer(source: Source) -> bool:
    """Whether any file there could be a tokenizer's."""
    return any("/" not in name and TOKENIZER_FILE.search(name) for name in source.checkpoint.companions)
