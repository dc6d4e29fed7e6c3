"""Which layer of one model computes what which layer of another does? (arXiv 2505.13898, section 6 and figure 10)

For every depth of model A and every depth of model B: the best linear map from A's residual stream to B's, by ridge
regression in closed form, and its error on held-out documents. If the cheapest rows lie on the diagonal, the deeper
model only stretches the other's computation over more layers.

Both models must read the same tokens. A token's stream is divided by its root mean square, as a final norm would, so
that a few tokens of huge norm (attention sinks) do not decide; where a stream is wider than `features`, it is
projected onto that many random orthonormal directions with a fixed seed, which keeps squared distances in expectation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from prune.data.domains import Document, Domain, batches
from prune.errors import PruneError
from prune.model.anatomy import find_anatomy
from prune.model.tracing import RecordedWalk

if TYPE_CHECKING:
    from transformers import PreTrainedModel

RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Candidates for the ridge, relative to the mean eigenvalue of the inputs' covariance; chosen on validation tokens."""

FEWEST_DOCUMENTS = 6
TRAIN, VALIDATION, TEST = 0, 1, 2
SPLIT = (TRAIN, TRAIN, TRAIN, VALIDATION, TEST)
"""Documents go to these parts in turn: 60 % to fit the map, 20 % to choose the ridge, 20 % to report the error."""


@dataclass(frozen=True)
class DepthMap:
    """Held-out error of the best linear map between any two depths.

    Attributes:
        error: [LA+1, LB+1] float64: unexplained share of the variance of B's stream before layer j (LB = after the
            last), predicted from A's stream before layer i; 0 is a perfect map, 1 no better than the mean.
        ridge: [LA+1, LB+1] the ridge chosen for each pair.
        tokens: tokens used to fit, to choose the ridge and to test.
        features: widths regressed on and predicted, after projection.
    """

    error: np.ndarray
    ridge: np.ndarray
    tokens: tuple[int, int, int]
    features: tuple[int, int]

    @property
    def best(self) -> np.ndarray:
        """[LB+1]: the depth of A that predicts each depth of B best."""
        return self.error.argmin(0)

    @property
    def offset(self) -> float:
        """Mean distance of the best depths from the diagonal, as a share of depth; about 1/3 for depths at random."""
        depths_a, depths_b = self.error.shape
        return float(np.abs(self.best / (depths_a - 1) - np.arange(depths_b) / (depths_b - 1)).mean())

    @property
    def excess(self) -> float:
        """How much more error the diagonal leaves than the best depths do, mean over B's depths."""
        depths_a, depths_b = self.error.shape
        diagonal = np.rint(np.arange(depths_b) * (depths_a - 1) / (depths_b - 1)).astype(int)
        return float((self.error[diagonal, np.arange(depths_b)] - self.error.min(0)).mean())

    def as_dict(self) -> dict[str, Any]:
        """JSON-serialisable, with a sentence."""
        return {
            "error": self.error.tolist(),
            "ridge": self.ridge.tolist(),
            "best": self.best.tolist(),
            "offset_from_diagonal": self.offset,
            "excess_error_of_diagonal": self.excess,
            "tokens": dict(zip(("train", "validation", "test"), self.tokens, strict=True)),
            "features": self.features,
            "sentence": (
                f"the best-matching depths lie {self.offset:.0%} of the depth away from the diagonal on average; "
                f"holding to the diagonal leaves {self.excess:.3f} more of the variance unexplained"
            ),
        }


def depth_map(
    model_a: PreTrainedModel,
    model_b: PreTrainedModel,
    domains: Mapping[str, Domain],
    *,
    features: int = 512,
    max_tokens: int = 8192,
    batch_size: int = 8,
    pad_token_id: int = 0,
    seed: int = 0,
) -> DepthMap:
    """Fit and test the maps; both models see the same token ids.

    Args:
        model_a, model_b: causal language models of any depths and widths.
        domains: documents tokenised by a tokenizer that both models share.
        features: wider streams are projected onto so many directions.
        max_tokens: at most so many tokens, drawn evenly from the documents.
        seed: of the draw and of the projection.

    Raises:
        PruneError: too few documents, or a token id outside a model's vocabulary.
    """
    documents = [document for domain in domains.values() for document in domain.documents]
    check_count(len(documents))
    highest = max(max(document.input_ids) for document in documents)
    for model in (model_a, model_b):
        size = model.get_input_embeddings().weight.shape[0]
        if highest >= size:
            raise PruneError(
                f"{type(model).__name__} knows {size} tokens but the documents hold token {highest}: a depth map needs "
                "two models with one tokenizer"
            )
    share = min(1.0, max_tokens / sum(len(document.input_ids) for document in documents))
    options = {
        "share": share,
        "features": features,
        "batch_size": batch_size,
        "pad_token_id": pad_token_id,
        "seed": seed,
    }
    a, part = _streams(model_a, documents, **options)
    b, _ = _streams(model_b, documents, **options)
    return fit(a, b, part)


def check_count(documents: int) -> None:
    """Refuse too few documents.

    Raises:
        PruneError: fewer than can be parted.
    """
    if documents < FEWEST_DOCUMENTS:
        raise PruneError(f"a depth map needs {FEWEST_DOCUMENTS} documents or more, to hold some out; got {documents}")


@torch.no_grad()
def _streams(
    model: PreTrainedModel,
    documents: Sequence[Document],
    *,
    share: float,
    features: int,
    batch_size: int,
    pad_token_id: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Normalised streams [N, L+1, f] float32 of the drawn tokens, and the part [N] each token's document is in."""
    anatomy = find_anatomy(model)
    width = anatomy.embedding.weight.shape[1]
    basis = _projection(width, features, seed)
    rows: dict[int, np.ndarray] = {}
    for batch in batches(documents, batch_size, pad_token_id):
        walk = RecordedWalk(model, anatomy, batch)
        for at, index in enumerate(batch.index):
            length = len(documents[index].input_ids)
            drawn = np.random.default_rng([seed, index]).random(length) < share  # [T] the same for both models
            if not drawn.any():
                continue
            places = torch.from_numpy(drawn.nonzero()[0])
            stack = torch.stack([s[at, places.to(s.device)].float().cpu() for s in walk.resid_pre], 1)  # [n, L+1, d]
            stack = stack / stack.square().mean(-1, keepdim=True).sqrt().clamp(min=1e-6)
            rows[index] = (stack if basis is None else stack @ basis).numpy()  # [n, L+1, f]
    order = sorted(rows)  # batches come by length; both models' tokens must pair
    part = [np.full(len(rows[index]), SPLIT[index % len(SPLIT)]) for index in order]
    return np.concatenate([rows[index] for index in order]), np.concatenate(part)


def _projection(width: int, features: int, seed: int) -> torch.Tensor | None:
    """Random orthonormal directions [d, f], or None where the stream is no wider."""
    if width <= features:
        return None
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(width, features, generator=generator))[0] * (width / features) ** 0.5


def fit(a: np.ndarray, b: np.ndarray, part: np.ndarray) -> DepthMap:
    """Ridge regression with an intercept from every depth of A to every depth of B.

    The normal equations of one depth of A are solved once, in the eigenbasis of its covariance, for all depths of B and
    all ridges together.

    Args:
        a: [N, LA+1, fa].
        b: [N, LB+1, fb].
        part: [N] TRAIN, VALIDATION or TEST.

    Raises:
        PruneError: a part holds no tokens.
    """
    sizes = tuple(int((part == which).sum()) for which in (TRAIN, VALIDATION, TEST))
    if min(sizes) == 0:
        raise PruneError("a depth map needs tokens to fit, to choose the ridge and to test on: give more documents")
    depths_a, depths_b, width_b = a.shape[1], b.shape[1], b.shape[2]
    targets = b.reshape(len(b), -1).astype(np.float64)  # [N, (LB+1)·fb]
    y_mean = targets[part == TRAIN].mean(0)
    y = {which: targets[part == which] - y_mean for which in (TRAIN, VALIDATION, TEST)}

    def unexplained(residual: np.ndarray, which: int) -> np.ndarray:
        total = (y[which] ** 2).reshape(len(residual), depths_b, width_b).sum((0, 2))  # [LB+1]
        left = (residual**2).reshape(len(residual), depths_b, width_b).sum((0, 2))
        return left / np.maximum(total, 1e-30)

    error, ridge = np.zeros((depths_a, depths_b)), np.zeros((depths_a, depths_b))
    for depth in range(depths_a):
        inputs = a[:, depth].astype(np.float64)  # [N, fa]
        centred = inputs - inputs[part == TRAIN].mean(0)
        x = centred[part == TRAIN]
        values, vectors = np.linalg.eigh(x.T @ x)  # [fa], [fa, fa]
        values = values.clip(min=0)
        cross = vectors.T @ (x.T @ y[TRAIN])  # [fa, (LB+1)·fb]
        left = {VALIDATION: np.zeros((len(RIDGES), depths_b)), TEST: np.zeros((len(RIDGES), depths_b))}
        for number, candidate in enumerate(RIDGES):
            weights = vectors @ (cross / (values + candidate * max(values.mean(), 1e-30))[:, None])
            for which, rows in left.items():
                rows[number] = unexplained(y[which] - centred[part == which] @ weights, which)
        chosen = left[VALIDATION].argmin(0)  # [LB+1]
        ridge[depth] = np.asarray(RIDGES)[chosen]
        error[depth] = left[TEST][chosen, np.arange(depths_b)]
    return DepthMap(error, ridge, (sizes[0], sizes[1], sizes[2]), (a.shape[2], width_b))
