"""transformers' KV cache with room to grow, so that a step of decoding writes one token instead of copying all.

`DynamicCache` makes a new tensor of all keys and values in every layer at every step. Here each layer has a buffer with
room for an eighth more; keys and values are views of its filled part, bit for bit what `torch.cat` would have made.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

SPARE = 64
"""Fewest positions of room in a new buffer."""


class _Room:
    """One tensor [B, H, T, D] that tokens are appended to, at the end of a larger buffer."""

    def __init__(self) -> None:
        self._buffer: torch.Tensor | None = None
        self._view: torch.Tensor | None = None
        self._start = 0

    def appended(self, held: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        """`torch.cat([held, new], -2)`; in place if `held` is (the end of) what was returned last."""
        count = held.shape[-2] if held.numel() else 0
        start = self._place(held) if count else None
        if self._buffer is None or start is None or start + count + new.shape[-2] > self._buffer.shape[-2]:
            total = count + new.shape[-2]
            self._buffer, start = new.new_empty((*new.shape[:-2], total + max(SPARE, total // 8), new.shape[-1])), 0
            if count:
                self._buffer[..., :count, :] = held
        end = start + count + new.shape[-2]
        self._buffer[..., start + count : end, :] = new
        self._view, self._start = self._buffer[..., start:end, :], start
        return self._view

    def _place(self, held: torch.Tensor) -> int | None:
        """Where `held` begins in the buffer, if it lies there: beams, selections and copies do not."""
        if self._buffer is None or held.shape[:-2] != self._buffer.shape[:-2]:
            return None
        if held.untyped_storage().data_ptr() != self._buffer.untyped_storage().data_ptr():
            return None
        if held.stride() != self._buffer.stride():
            return None
        return int(held.storage_offset()) // self._buffer.stride(-2)


class GrowingLayer(DynamicLayer):
    """`DynamicLayer` that appends in place."""

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self._rooms = _Room(), _Room()

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values so far, the new ones at the end; [B, H, T, D] each."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys = self._rooms[0].appended(self.keys, key_states)
        self.values = self._rooms[1].appended(self.values, value_states)
        return self.keys, self.values


class GrowingWindow(DynamicSlidingWindowLayer):
    """`DynamicSlidingWindowLayer` that appends in place; what has left the window is dropped with a full buffer."""

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, sliding_window: int) -> None:
        super().__init__(sliding_window=sliding_window)
        self._rooms = _Room(), _Room()

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The window's keys and values before this step, and the new ones; [B, H, T, D] each."""
        if self.record_past:
            return super().update(key_states, value_states, *args, **kwargs)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.cumulative_length += key_states.shape[-2]
        keys = self._rooms[0].appended(self.keys, key_states)
        values = self._rooms[1].appended(self.values, value_states)
        self.keys = keys[:, :, -self.sliding_window + 1 :, :]
        self.values = values[:, :, -self.sliding_window + 1 :, :]
        return keys, values


def growing_cache(model: Any) -> DynamicCache | None:
    """A new cache for one call of `model.generate`; None where transformers would give the model another kind.

    Assumption: plain or sliding attention in every layer; recurrent layers, shared or compressed keys and whatever a
    generation config asks for stay with transformers.
    """
    if getattr(model.generation_config, "cache_implementation", None) or not model._supports_default_dynamic_cache():
        return None
    if model.config.is_encoder_decoder:
        return None
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    made = [_growing(layer) for layer in cache.layers]
    if not made or None in made:
        return None
    cache.layers = made
    return cache


def _growing(layer: Any) -> DynamicLayer | None:
    if type(layer) is DynamicLayer:
        return GrowingLayer()
    return GrowingWindow(layer.sliding_window) if type(layer) is DynamicSlidingWindowLayer else None
