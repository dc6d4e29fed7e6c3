"""What of GGUF the installed transformers reads: architectures, tensor types, and what of one file it leaves unread.

Asked of transformers and the `gguf` package, not listed here, so that a newer version reads more at once. Its names of
architectures are its own spelling in four cases. Assumption: the header was checked before.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

from prune.errors import PruneError, UsageError
from prune.gguf.header import Header
from prune.gguf.parts import Model
from prune.gguf.plausible import TEMPLATE
from prune.gguf.types import BLOCKS

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SPELLINGS = {"qwen2_moe": "qwen2moe", "qwen3_moe": "qwen3moe", "gpt_oss": "gpt-oss", "minimax_m2": "minimax-m2"}
"""transformers' name -> the file's, where they differ."""
NO_DECODERS = {"general", "tokenizer", "mistral", "t5", "t5encoder", "umt5", "deci"}
"""Entries of transformers' table that are no decoder of their own (a Mistral file says llama), or for which it has no
model (deci)."""
DERIVED = (
    "attention.key_length", "attention.value_length", "rope.dimension_count", "vocab_size",
    "attention.sliding_window_pattern", "attention.recurrent_layers", "block_count", "expert_feed_forward_length",
    "expert_shared_feed_forward_length",
)  # fmt: skip
"""Keys that say what shapes or `importing` say too: not worth a note."""
LONG_CONTEXT = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
"""Factors of rotary frequencies, which transformers takes from a config that a GGUF does not have."""


def check_package() -> None:
    """Refuse to go on without the `gguf` package.

    Raises:
        UsageError: with the command that installs it.
    """
    if importlib.util.find_spec("gguf") is None:
        raise UsageError("reading GGUF files needs the gguf package: pip install 'depth-prune[gguf]'")


def architectures() -> list[str]:
    """Architectures of decoders that transformers reads, as files spell them."""
    from transformers.integrations import GGUF_CONFIG_MAPPING
    from transformers.integrations.gguf import GGUF_CONFIG_ARCHS

    legacy = {SPELLINGS.get(name, name) for name in GGUF_CONFIG_MAPPING if name not in NO_DECODERS}
    return sorted(legacy | set(GGUF_CONFIG_ARCHS))


def check_readable(model: Model) -> None:
    """Refuse a file that transformers cannot read.

    Raises:
        PruneError: its architecture or a tensor type is not supported; names it and what is.
    """
    found, known = model.architecture, architectures()
    if found not in known:
        name = str(found)[:40]
        raise PruneError(
            f"{model.path}: transformers reads no GGUF of architecture {name!r}; it reads {', '.join(known)}"
        )
    readable = _tensor_types(found)
    for path, tensor in model.tensors:
        if tensor.kind not in readable:
            names = ", ".join(BLOCKS[kind][0] for kind in sorted(readable))
            raise PruneError(
                f"{path}: tensor {tensor.name!r} is {tensor.type_name}, which transformers does not read for"
                f" {found}; it reads {names}; take another quantisation of the model"
            )


def _tensor_types(architecture: str) -> set[int]:
    """Tensor types that can be dequantised; transformers has two readers, each with its own."""
    from transformers.integrations.gguf import GGUF_ARCHS

    if architecture in GGUF_ARCHS:
        from transformers.integrations.gguf.dequant import GGML_BLOCK

        return {0, 1, 30, *GGML_BLOCK}
    import numpy
    from gguf import GGMLQuantizationType, dequantize

    found = set()
    for kind, (_, _, width) in BLOCKS.items():
        try:
            dequantize(numpy.zeros((1, width), dtype=numpy.uint8), GGMLQuantizationType(kind))
        except (NotImplementedError, ValueError):
            continue
        found.add(kind)
    return found


def unread_keys(header: Header) -> list[str]:
    """Keys that transformers does not take, sorted: of the architecture, and chat templates with a name."""
    from transformers.integrations import GGUF_CONFIG_MAPPING
    from transformers.integrations.gguf import GGUF_CONFIG_ARCHS

    name = str(header.get("general.architecture"))
    templates = [key for key in header.fields if key.startswith(f"{TEMPLATE}.")]
    if name in GGUF_CONFIG_ARCHS:
        return sorted(templates)
    table = next(keys for own, keys in GGUF_CONFIG_MAPPING.items() if SPELLINGS.get(own, own) == name)
    keys = [key.removeprefix(f"{name}.") for key in header.fields if key.startswith(f"{name}.")]
    return sorted([*templates, *(key for key in keys if key not in table and key not in DERIVED)])


def unread_tensors(header: Header, model: PreTrainedModel) -> list[str]:
    """Tensors of the file that the loaded model has no place for; transformers skips them without a word."""
    from transformers.integrations.gguf import GGUF_ARCHS
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

    name = str(header.get("general.architecture"))
    if name in GGUF_ARCHS:
        return []  # that reader reports them as unexpected
    processor: Any = TENSOR_PROCESSORS.get(name, TensorProcessor)(config=model.config.to_dict())
    places = get_gguf_hf_weights_map(model, processor)
    return [
        tensor.name
        for tensor in header.tensors
        if tensor.name not in places
        and tensor.name.removesuffix(".weight") not in places  # stacked experts
        and tensor.name != "output.weight"  # GPT-2's is placed by name
    ]
