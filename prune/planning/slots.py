"""Which layers may stand where, for a search among cuts that a runtime reads rightly."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Slots = Callable[[int], Sequence[frozenset[int]] | None]
"""Number of layers that stay -> for each position the source layers that may stand there; None where none will do."""
