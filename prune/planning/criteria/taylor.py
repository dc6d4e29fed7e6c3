"""First-order Taylor: the sum of |w · ∂L/∂w| over a layer's matrices (Shortened LLaMA), L the NLL per token.

The gradient is that of the weighted mean of the domains' NLL per token; it needs memory for the layers' gradients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from evals.weights import is_offloaded
from prune.data.domains import batches
from prune.errors import PruneError
from prune.files import sha256_json
from prune.planning.context import Context, normalised
from prune.planning.registry import Criterion
from prune.planning.score_cache import document_key

if TYPE_CHECKING:
    import torch
    from torch import nn

    from prune.data.domains import Batch, Document

BATCH_SIZE = 4


def layer_scores(context: Context, removals: int) -> Sequence[float]:
    """Sum of |w · gradient| of each layer [L].

    Raises:
        UsageError: no documents.
        PruneError: quantised weights, or weights that are not in memory.
    """
    from prune.planning.unit_weights import unit_matrices

    model, domains = context.require_model(), context.require_domains()
    weights = normalised(context.domain_weights or dict.fromkeys(domains, 1.0), list(domains))
    documents = {name: domains[name].documents for name in weights}
    data = sha256_json(sorted([weights[name], list(map(document_key, own))] for name, own in documents.items()))

    def compute() -> list[float]:
        if is_offloaded(model):
            raise PruneError(
                f"{context.source}: --criterion taylor needs gradients of all layers in memory, and device_map left "
                "some on disk or beside the GPU; give it more memory, or choose another criterion"
            )
        matrices = unit_matrices(model, context.units)
        if not all(weight.is_floating_point() for group in matrices for weight in group):
            raise PruneError(f"{context.source}: --criterion taylor needs unquantised weights; choose another")
        return _products(model, matrices, documents, weights)

    return context.layer_figures("taylor", data, compute)


def _products(
    model: nn.Module,
    matrices: Sequence[Sequence[nn.Parameter]],
    documents: Mapping[str, Sequence[Document]],
    weights: Mapping[str, float],
) -> list[float]:
    """Sum of |w · gradient| over each group of matrices; the model is left as it was."""
    import torch

    flags = {parameter: parameter.requires_grad for parameter in model.parameters()}
    gradients = {parameter: parameter.grad for parameter in model.parameters()}
    try:
        for parameter in model.parameters():
            parameter.grad = None
            parameter.requires_grad_(False)
        for group in matrices:
            for weight in group:
                weight.requires_grad_(True)
        with torch.enable_grad():
            for name, share in weights.items():
                tokens = sum(len(d.input_ids) - d.answer_start for d in documents[name])
                for batch in batches(documents[name], BATCH_SIZE):
                    (share / tokens * summed_nll(model, batch)).backward()
        return [
            sum(float((w.detach() * w.grad).float().abs().sum()) for w in group if w.grad is not None)
            for group in matrices
        ]
    finally:
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)
            parameter.grad = gradients[parameter]


def summed_nll(model: nn.Module, batch: Batch) -> torch.Tensor:
    """NLL of a batch's counted tokens, summed, with gradients."""
    import torch

    from prune.model.anatomy import find_anatomy
    from prune.model.tracing import model_inputs

    batch = batch.to(find_anatomy(model).device)
    logits = model(**model_inputs(model, batch)).logits  # [B, T, V]
    counted = batch.loss_mask[:, 1:].to(logits.device)  # [B, T-1]
    targets = batch.input_ids[:, 1:].to(logits.device)[counted]  # [N]
    return torch.nn.functional.cross_entropy(logits[:, :-1][counted].float(), targets, reduction="sum")


CRITERION = Criterion(
    "sum of |weight x gradient| over the layer's matrices (Shortened LLaMA)", layer_scores, apart=True
)
