"""Compensation without training: the layer before each gap is rewritten so that the stream after it is nearly right.

For a gap of removed layers i..j-1 behind the kept layer p the MLP of p is given a linear map T (ReplaceMe, Shopkhoev et
al. 2025), fitted on every real token of the calibration documents:

    stream before the MLP of p  +  T · (what that MLP adds)  (+ c)   ~   the original model's stream before layer j.

Only what the MLP adds can be changed, not the stream itself, so the least squares is formulated for exactly that, and T
folds into the down projection of p (`folding`, `least_squares`). Gaps are treated from the first to the last, each on
the stream of the model as compensated so far. Tokens count by 1 / ||target||², because the norms that read the stream
see its direction. A gap's map is kept only if documents that no fit has seen say so, with the weights as they will be
stored: it lowers their weighted NLL by more than the standard error of the difference, and raises no domain's. A gap
before the first kept layer has no layer to write it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from prune.analysis.documents import check_documents
from prune.data.domains import Document, Domain, batches, check_weights
from prune.errors import PruneError, UsageError, nearest
from prune.layer_runs import removed_runs
from prune.model.anatomy import find_anatomy
from prune.model.sublayers import SublayerTracer
from prune.model.tracing import RecordedWalk, Walk
from prune.surgery.folding import CannotFoldError, applied, find_seat, fold, observe
from prune.surgery.least_squares import Form, Map, Moments, cross_validated, identity, squared_error

Method = Literal["linear", "scale"]
METHODS = ("linear", "scale")
PARTS = 4  # of the documents: three to fit and choose the ridge, one to judge
BATCH_SIZE = 8
Tensors = dict[str, torch.Tensor]
Sums = dict[str, torch.Tensor]


@dataclass
class GapResult:
    """What was done about one gap.

    Attributes:
        first, last: the removed layers, both included, source indices.
        layer: the kept layer before it; None if there is none.
        form: of the map; None if none was fitted.
        ridge: chosen by cross-validation.
        stream_error: weighted mean over fit tokens of ||stream - target||² / ||target||² before and after the fit.
        nll: on held-out documents, weighted over domains, nats per token, before and after.
        kept: whether the map stays.
        reason: why not, else empty.
    """

    first: int
    last: int
    layer: int | None = None
    form: Form | None = None
    ridge: float | None = None
    stream_error: dict[str, float] | None = None
    nll: dict[str, float] | None = None
    kept: bool = False
    reason: str = ""


@dataclass
class Compensation:
    """What replaces the gaps of a plan.

    Attributes:
        method: `linear` or `scale`.
        gaps: one result each, in order.
        nll: held-out NLL, `before` and `after`, in total and by domain; `unrounded` is the total with the new weights
            not yet rounded to the stored type.
        held_out: documents and tokens behind the NLL.
        tensors: parameter name -> new value, in the stored type; source indices in the names.
    """

    method: Method
    gaps: list[GapResult]
    nll: dict[str, Any]
    held_out: dict[str, dict[str, int]]
    tensors: Tensors = field(default_factory=dict)

    def describe(self) -> dict[str, Any]:
        """For `plan.json`."""
        return {
            "method": self.method,
            "kept": any(gap.kept for gap in self.gaps),
            "gaps": [dataclasses.asdict(gap) for gap in self.gaps],
            "nll": self.nll,
            "held_out": self.held_out,
        }


def compensate(
    model: nn.Module,
    keep: Sequence[int],
    domains: Mapping[str, Domain],
    *,
    method: Method = "linear",
    weights: Mapping[str, float] | None = None,
    stored: Callable[[str], torch.dtype] | None = None,
    pad_token_id: int = 0,
) -> Compensation:
    """Fit and judge a map for every gap.

    Args:
        model: the original, in eval mode; unchanged afterwards.
        keep: sorted source indices of the layers that stay.
        domains: calibration documents, at least four each.
        method: `linear` fits a matrix (behind a norm: a diagonal), and one number where that does not help; `scale`
            one number only.
        weights: of the domains, in the fit and in the NLL; equal if None.
        stored: parameter name -> type of the weight on disk, to which new ones are rounded; the parameter's own if
            None. A PruneError from it, for a weight that is not stored as one plain tensor, is the gap's reason.
        pad_token_id: fills short rows; masked everywhere.

    Raises:
        UsageError: an unknown method, too few documents or ones that the model cannot read, or bad weights.
    """
    if method not in METHODS:
        raise UsageError(f"--method: unknown method {nearest(method, METHODS)}")
    for name, domain in domains.items():
        if len(domain.documents) < PARTS:
            raise UsageError(f"--data {name}: {len(domain.documents)} documents; compensation needs {PARTS} or more")
    check_documents(model, find_anatomy(model).embedding, domains)
    return _Work(model, keep, domains, method, check_weights(weights, list(domains)), stored, pad_token_id).run()


class _Work:
    """One compensation under way."""

    def __init__(
        self,
        model: nn.Module,
        keep: Sequence[int],
        domains: Mapping[str, Domain],
        method: Method,
        weights: Mapping[str, float],
        stored: Callable[[str], torch.dtype] | None,
        pad: int,
    ) -> None:
        self.model, self.keep, self.method, self.stored, self.pad = model, tuple(keep), method, stored, pad
        self.weights = {name: weight / sum(weights.values()) for name, weight in weights.items() if weight > 0}
        self.anatomy = find_anatomy(model)
        self.tracer = SublayerTracer(self.anatomy)
        self.parts = {name: [domains[name].documents[part::PARTS] for part in range(PARTS)] for name in self.weights}
        self.tensors: Tensors = {}

    @torch.no_grad()
    def run(self) -> Compensation:
        first_sums = now = self._sums({})
        gaps: list[GapResult] = []
        exact: Tensors = {}
        for first, last in removed_runs(self.keep, self.anatomy.num_layers):
            gap = GapResult(first, last)
            gaps.append(gap)
            rounded, unrounded, now = self._treat(gap, now)
            gap.kept = bool(rounded)
            self.tensors.update(rounded)
            exact.update(unrounded)
        unrounded_nll = self._means(self._sums(exact))["total"] if exact else self._means(now)["total"]
        result = {"before": self._means(first_sums), "after": self._means(now), "unrounded": unrounded_nll}
        return Compensation(self.method, gaps, result, self._held_out(), self.tensors)

    def _treat(self, gap: GapResult, now: Sums) -> tuple[Tensors, Tensors, Sums]:
        """New weights that help, rounded and not, and the NLL with them; none, with the reason noted, if none do."""
        if gap.first == 0:
            gap.reason = "no layer stands before it"
            return {}, {}, now
        layer = gap.layer = gap.first - 1
        try:
            walk, hidden = next(self._walks(self.parts[next(iter(self.parts))][0], layer))
            with applied(self.model, "", self.tensors):
                seat = find_seat(self.model, walk, self.tracer, layer, hidden)
                check = observe(walk, self.tracer, layer, hidden)
            folds = [self._moments(layer, gap.last + 1, part) for part in range(PARTS - 1)]
            best: Form = "linear" if seat.place == "projection" else "diagonal"
            forms: tuple[Form, ...] = ("scale",) if self.method == "scale" else (best, "scale")
            for form in forms:
                gap.form = form
                gap.ridge, fitted = cross_validated(folds, form, seat.has_bias and form != "scale")
                self._note_error(gap, folds, fitted)
                matrix = fitted.full if seat.place == "projection" else fitted.matrix
                with applied(self.model, "", self.tensors):
                    exact = fold(seat, matrix, fitted.shift, check, walk, self.tracer)
                rounded = {n: value.to(self.stored(n)) if self.stored else value for n, value in exact.items()}
                after = self._sums({**self.tensors, **rounded})
                gap.nll = {"before": self._means(now)["total"], "after": self._means(after)["total"]}
                gap.reason = self._objection(now, after)
                if not gap.reason:
                    return rounded, exact, after
        except (CannotFoldError, PruneError) as error:
            gap.reason = f"layer {layer} cannot take a map: {error}"
        return {}, {}, now

    def _note_error(self, gap: GapResult, folds: Sequence[Moments], fitted: Map) -> None:
        total = sum(folds[1:], folds[0])
        gap.stream_error = {
            "before": squared_error(total, identity(len(total.a), total.a.device)) / len(folds),
            "after": squared_error(total, fitted) / len(folds),
        }

    def _moments(self, layer: int, end: int, part: int) -> Moments:
        """Moments of one part of the documents: what `layer` adds against what it should add."""
        total: Moments | None = None
        for name, share in self.weights.items():
            documents = self.parts[name][part]
            each = share / sum(len(document.input_ids) for document in documents)
            for walk, hidden in self._walks(documents, layer):
                with applied(self.model, "", self.tensors):
                    seen = observe(walk, self.tracer, layer, hidden)
                if seen.mlp is None:
                    raise CannotFoldError("attention and MLP cannot be told apart")
                real = walk.batch.attention_mask.bool()
                added = seen.mlp[real].double()  # [N, d]
                base = seen.resid_post[real].double() - added  # [N, d] the stream without the MLP's addition
                target = walk.resid_pre[end][real].to(added.device).double()  # [N, d]
                size = target.square().sum(1).clamp(min=1e-12)  # [N]
                own = Moments.of(added, target - base, each / size)
                total = own if total is None else total + own
        assert total is not None  # weights are never all zero
        return total

    def _walks(self, documents: Sequence[Document], layer: int) -> Iterator[tuple[Walk, torch.Tensor]]:
        """Each batch's original pass, and the compensated model's stream [B, T, d] before `layer`."""
        for batch in batches(documents, BATCH_SIZE, self.pad):
            walk = RecordedWalk(self.model, self.anatomy, batch)
            with applied(self.model, "", self.tensors):
                hidden = walk.run(walk.resid_pre[0], [index for index in self.keep if index < layer])
            yield walk, hidden

    def _sums(self, tensors: Tensors) -> Sums:
        """Summed held-out NLL of each document under the shortened model with new weights, in nats, by domain."""
        sums = {}
        for name in self.weights:
            documents = self.parts[name][PARTS - 1]
            sums[name] = torch.zeros(len(documents), dtype=torch.float64)  # [documents]
            for batch in batches(documents, BATCH_SIZE, self.pad):
                walk = RecordedWalk(self.model, self.anatomy, batch)
                with applied(self.model, "", tensors):
                    sums[name][batch.index] = walk.nll(walk.run(walk.resid_pre[0], self.keep))
        return sums

    def _counted(self, name: str) -> torch.Tensor:
        """[documents] tokens of each held-out document whose prediction counts."""
        documents = self.parts[name][PARTS - 1]
        return torch.tensor([len(d.input_ids) - d.answer_start for d in documents], dtype=torch.float64)

    def _means(self, sums: Sums) -> dict[str, float]:
        """Nats per counted token: the weighted `total`, and each domain."""
        values = {name: float(value.sum() / self._counted(name).sum()) for name, value in sums.items()}
        return {"total": sum(self.weights[name] * value for name, value in values.items()), **values}

    def _objection(self, before: Sums, after: Sums) -> str:
        """Why a map is not kept; empty if it is."""
        change, variance = 0.0, 0.0
        for name, share in self.weights.items():
            difference, tokens = after[name] - before[name], self._counted(name)  # [documents], paired
            mean = float(difference.sum() / tokens.sum())
            if mean > 0:
                return f"it raises the NLL of held-out documents of {name} by {mean:.4f}"
            # Standard error of a ratio of sums over documents.
            size = len(difference)
            spread = float((difference - mean * tokens).square().sum()) * size / max(1, size - 1)
            variance += share**2 * spread / float(tokens.sum()) ** 2
            change += share * mean
        if change + variance**0.5 >= 0:
            return f"it does not lower the NLL of held-out documents beyond its standard error of {variance**0.5:.4f}"
        return ""

    def _held_out(self) -> dict[str, dict[str, int]]:
        return {
            name: {
                "documents": len(parts[-1]),
                "tokens": sum(len(d.input_ids) - d.answer_start for d in parts[-1]),
            }
            for name, parts in self.parts.items()
        }
