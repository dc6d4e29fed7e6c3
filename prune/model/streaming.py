"""A checkpoint whose layers are in memory one at a time: models larger than memory.

The model is a stock transformers class with its layers on the meta device; embedding, head, final norm and rotary
buffers are resident. A layer's tensors are read from the safetensors files when it is entered and forgotten when it is
left, through transformers' own conversion (renamed tensors, fused experts), tensor after tensor, so that memory holds
one layer and one tensor more.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from prune.checkpoint.source import Source, resolve
from prune.errors import PruneError
from prune.model.anatomy import Anatomy, find_anatomy
from prune.model.heap import release_freed_memory
from prune.model.loading import check_attention, load_config, not_loaded, require_finite, resolve_dtype, unaccounted

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class StreamedModel:
    """A model of L layers, at most one of them in memory.

    Attributes:
        model: the transformers model; its layers' weights are on the meta device unless entered.
        anatomy: its parts.
        device: where it computes.
        bytes_read: tensor bytes fetched from the files so far.
        largest_layer: bytes on disk of the largest layer.
    """

    def __init__(
        self,
        model: str | Path | Source,
        *,
        dtype: str | None = None,
        device: str | None = None,
    ) -> None:
        """Build the model on the meta device and read everything but its layers.

        Args: as for `prune.model.loading.load_model`.

        Raises:
            UsageError: no such directory.
            PruneError: unsafe or contradictory files, a quantised checkpoint, weights that config.json does not
                describe, or that are not finite.
        """
        source = resolve(model)
        from accelerate import init_empty_weights
        from transformers import AutoModelForCausalLM
        from transformers.conversion_mapping import get_model_conversion_mapping

        self.source = source
        self.name = source.id
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        config = load_config(source)
        if getattr(config, "quantization_config", None) is not None:
            raise PruneError(f"{self.name}: --stream does not read quantised weights; analyze it without --stream")
        wanted = resolve_dtype(dtype or source.dtype)
        self.dtype = (config.dtype or torch.float32) if isinstance(wanted, str) else wanted
        options = {"dtype": self.dtype, "trust_remote_code": source.trust_remote_code}
        if source.attn_implementation is not None:
            check_attention(source)
            options["attn_implementation"] = source.attn_implementation
        try:
            with init_empty_weights(include_buffers=False):
                built = AutoModelForCausalLM.from_config(config, **options)
        except Exception as error:  # of many kinds, as for loading
            raise not_loaded(self.name, error, source.attn_implementation) from error
        built.config.name_or_path = source.id
        self.model: PreTrainedModel = built.eval()
        for module in self.model.modules():
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, buffer.to(self.device))
        self.anatomy: Anatomy = find_anatomy(self.model)
        self.bytes_read = 0
        self._mapping = get_model_conversion_mapping(self.model)
        self._tensors = source.checkpoint.tensors
        self._resident, self._of_layer = self._sort_names()
        self._load_resident()
        sizes = [sum(self._tensors[name].entry.bytes for name in names) for names in self._of_layer]
        self.largest_layer = max(sizes)

    @property
    def checkpoint_bytes(self) -> int:
        """Bytes of all tensors on disk."""
        return sum(tensor.entry.bytes for tensor in self._tensors.values())

    @contextlib.contextmanager
    def layer(self, index: int) -> Iterator[nn.Module]:
        """The layer with its weights in memory; on leaving they are forgotten.

        Raises:
            PruneError: a weight of the layer is missing, has another shape or is not finite.
        """
        layer = self.anatomy.layers[index]
        empty = [
            (module, name, parameter)
            for module in layer.modules()
            for name, parameter in module.named_parameters(recurse=False)
        ]
        try:
            self._read(self._of_layer[index])
            for name, parameter in layer.named_parameters():
                if parameter.is_meta:
                    raise PruneError(f"{self.name}: missing keys: {self.anatomy.layers_path}.{index}.{name}")
            require_finite(f"{self.name}: layer {index}", layer.state_dict())
            yield layer
        finally:
            for module, name, parameter in empty:
                setattr(module, name, parameter)
            release_freed_memory()

    def _sort_names(self) -> tuple[list[str], list[list[str]]]:
        """Names on disk of resident tensors, and of each layer's, by the name that each has in the model."""
        from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

        renamings = [entry for entry in self._mapping if isinstance(entry, WeightRenaming)]
        converters = [entry for entry in self._mapping if isinstance(entry, WeightConverter)]
        known, prefix = self.model.state_dict(), self.model.base_model_prefix
        within = re.compile(re.escape(self.anatomy.layers_path) + r"\.(\d+)\.")
        resident: list[str] = []
        layers: list[list[str]] = [[] for _ in self.anatomy.layers]
        for name in self._tensors:
            renamed, _ = rename_source_key(name, renamings, converters, prefix, known)
            if renamed not in known and name in known:
                renamed, _ = rename_source_key(name, [], [], base_model_prefix=prefix, meta_state_dict=known)
            match = within.match(renamed) if renamed in known else None
            (resident if match is None else layers[int(match[1])]).append(name)
        return resident, layers

    def _load_resident(self) -> None:
        info = self._read(self._resident)
        path = self.anatomy.layers_path + "."
        info.missing_keys = {name for name in info.missing_keys if not name.startswith(path)}
        self.model.tie_weights(missing_keys=info.missing_keys, recompute_mapping=False)
        self.model._adjust_missing_and_unexpected_keys(info)
        for kind, names in (
            ("missing keys", info.missing_keys),
            ("unexpected keys", unaccounted(info.unexpected_keys)),
        ):
            if names:
                shown = ", ".join(sorted(map(str, names))[:3])
                raise PruneError(f"{self.name}: {kind}: {shown}; config.json and the weights disagree")
        require_finite(self.name, self.model.state_dict())

    def _read(self, names: list[str]) -> Any:
        """Load these tensors into the model; transformers' account of what was found."""
        from safetensors import safe_open
        from transformers.core_model_loading import convert_and_load_state_dict_in_model
        from transformers.modeling_utils import LoadStateDictConfig

        config = LoadStateDictConfig(
            device_map={"": str(self.device)},
            dtype=self.dtype,
            dtype_plan=self.model._get_dtype_plan(self.dtype),
            weight_mapping=self._mapping,
        )
        with contextlib.ExitStack() as stack:
            stack.enter_context(_no_progress_bar())
            stack.enter_context(_one_tensor_at_a_time())
            # pread, not a memory map: pages of a map count as resident until it is closed
            opened = {
                path: stack.enter_context(safe_open(path, framework="pt", device="cpu", backend="pread"))
                for path in sorted({str(self._tensors[name].path) for name in names})
            }
            slices = {name: opened[str(self._tensors[name].path)].get_slice(name) for name in names}
            info, _ = convert_and_load_state_dict_in_model(self.model, slices, config)
        self.bytes_read += sum(self._tensors[name].entry.bytes for name in names)
        release_freed_memory()
        if info.mismatched_keys or info.conversion_errors:
            shown = ", ".join(sorted(str(key) for key in [*info.mismatched_keys, *info.conversion_errors])[:3])
            raise PruneError(f"{self.name}: mismatched keys: {shown}; config.json and the weights disagree")
        return info


@contextlib.contextmanager
def _one_tensor_at_a_time() -> Iterator[None]:
    """transformers reads ahead with threads, by default: every tensor twice in memory, in heaps of their own."""
    name = "HF_DEACTIVATE_ASYNC_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextlib.contextmanager
def _no_progress_bar() -> Iterator[None]:
    """transformers shows a bar for every load, here one a layer."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
