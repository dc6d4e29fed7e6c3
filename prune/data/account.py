"""How much of the user's data was used: documents, tokens and what was left out, one row a domain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

COLUMNS = ("data", "documents", "tokens", "too short", "answer beyond seq_length")


def account(described: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, int, int, int, int]]:
    """Rows under `COLUMNS`: domain, documents and tokens used; documents left out because they have fewer than two
    tokens, or because their prompt fills seq_length.

    Args:
        described: domain -> what `Domain.describe` gives.
    """
    return [
        (
            name,
            int(row["documents"]),
            int(row["tokens"]),
            int(row.get("excluded_too_short", 0)),
            int(row.get("excluded_no_answer", 0)),
        )
        for name, row in described.items()
    ]
