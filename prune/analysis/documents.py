"""Can this model read these documents at all? Asked before the first pass, so that nothing fails after an hour of work.

Files are checked when they are read (`prune.data.domains`); here stands what only the model can tell, and what a caller
from Python can get wrong.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from prune.data.domains import Domain
from prune.errors import UsageError

MOST_OFFSET = 2  # OPT's table of positions has two rows more than positions


def check_documents(model: nn.Module, embedding: nn.Module, domains: Mapping[str, Domain]) -> None:
    """Refuse documents that the model cannot predict.

    Raises:
        UsageError: fewer than two tokens, a completion that starts outside its document, a token id that the model has
            no row for, or more tokens than a table of learned positions holds.
    """
    rows = getattr(embedding, "num_embeddings", None)
    longest = learned_positions(model, embedding)
    for name, domain in domains.items():
        for number, document in enumerate(domain.documents):
            ids, where = document.input_ids, f"data {name}: document {number}"
            if len(ids) < 2:
                raise UsageError(f"{where} has fewer than two tokens, so nothing in it can be predicted: leave it out")
            if not 1 <= document.answer_start < len(ids):
                raise UsageError(f"{where}: its answer_start is {document.answer_start}: use 1 to {len(ids) - 1}")
            wrong = next((i for i in ids if i < 0 or (rows is not None and i >= rows)), None)
            if wrong is not None:
                known = "no negative ones" if rows is None else f"0 to {rows - 1}"
                raise UsageError(f"{where} holds token id {wrong}, the model knows {known}: another tokenizer's ids?")
            if longest is not None and len(ids) > longest:
                raise UsageError(f"{where} has {len(ids)} tokens, the model {longest} positions: use seq_length")


def learned_positions(model: nn.Module, embedding: nn.Module) -> int | None:
    """How many positions the model has learned; None where positions are computed (rotary, ALiBi)."""
    stated = getattr(model.config, "max_position_embeddings", None)
    if stated is None:
        return None
    tables = (module for module in model.modules() if isinstance(module, nn.Embedding) and module is not embedding)
    found = any(0 <= table.num_embeddings - stated <= MOST_OFFSET for table in tables)
    return int(stated) if found else None
