"""The held-out loss: next-token loss of held-out documents, per domain and weighted, of any model.

Assumption: padded, one document a row, so that the figure of a model does not depend on whether its training packs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from evals.progress import Stage, stage
from prune.data.domains import Document
from prune.healing.data import IGNORED, Collator, Split
from prune.healing.objective import batch_losses
from prune.healing.settings import HealSettings


@dataclass(frozen=True)
class HeldOut:
    """Nats per predicted token: the mean over domains by their weights, and each domain's own."""

    loss: float
    by_domain: dict[str, float]

    def metrics(self) -> dict[str, float]:
        """As Trainer logs them: `eval_loss` and `eval_<domain>_loss`."""
        return {"eval_loss": self.loss, **{f"eval_{name}_loss": value for name, value in self.by_domain.items()}}


@torch.no_grad()
def held_out_loss(
    model: nn.Module, head: nn.Module | None, split: Split, settings: HealSettings, pad_token_id: int
) -> HeldOut:
    """Score the held-out documents of every domain.

    Args:
        model: on its device; its mode is restored.
        head: the model's output embedding, applied to predicted positions only.
        split: whose `held_out` is scored, with its weights.
        settings: the batch size.
        pad_token_id: fills short rows; never counted.
    """
    was_training = model.training
    model.eval()
    try:
        count = sum(map(len, split.held_out.values()))
        with stage("held-out loss", count, "documents") as scoring:
            means = {
                name: _mean_loss(model, head, documents, settings, pad_token_id, scoring)
                for name, documents in split.held_out.items()
            }
    finally:
        model.train(was_training)
    return HeldOut(sum(weight * means[name] for name, weight in split.weights.items()), means)


def _mean_loss(
    model: nn.Module,
    head: nn.Module | None,
    documents: Sequence[Document],
    settings: HealSettings,
    pad_token_id: int,
    scoring: Stage,
) -> float:
    by_length = sorted(documents, key=lambda d: len(d.input_ids))
    size, device = settings.per_device_train_batch_size, next(model.parameters()).device
    collator = Collator(pad_token_id, packing=False)
    total = torch.zeros((), dtype=torch.float64, device=device)
    count = 0
    for begin in range(0, len(by_length), size):
        batch = collator([[d] for d in by_length[begin : begin + size]])
        count += int((batch["labels"] != IGNORED).sum())
        inputs = {name: tensor.to(device) for name, tensor in batch.items()}
        total += batch_losses(model, inputs, settings, head=head).parts["next_token"]
        scoring.advance(len(batch["labels"]))
    return total.item() / count
