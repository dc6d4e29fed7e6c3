"""What a criterion may look at: the analysis, the model, the documents; each fetched only when asked for.

A criterion that reads measurements never causes a model to be loaded; one that needs the model or an evaluator gets it
here, or an error that names the flag that would provide it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from prune.data.domains import check_weights
from prune.errors import PruneError, UsageError
from prune.planning.units import Unit, Units

if TYPE_CHECKING:
    from torch import nn

    from prune.analysis.result import Analysis
    from prune.data.domains import Domain
    from prune.planning.crew import Crew
    from prune.planning.evaluator import Evaluator
    from prune.planning.paired import Documents, Look
    from prune.planning.score import Quantity, Score
    from prune.planning.score_cache import ScoreCache
    from prune.planning.slots import Slots


@dataclass
class Context:
    """Inputs of a plan.

    Attributes:
        source: the model's directory or id.
        num_layers: depth L.
        criterion: name in the registry, for messages.
        analysis: measurements, if any.
        model: the loaded model, if it is at hand.
        load_model: fetches it when it is not; `source` is loaded if None.
        domains: documents, if they are at hand.
        load_domains: fetches them when they are not.
        evaluator: made from model and domains when first needed, unless given.
        locate: the directory of the checkpoint, where `source` is not one itself.
        score_cache: SQLite file for the scores of an evaluator made here.
        pad_token_id: fills short rows there.
        in_memory: `model` is the caller's own, so its sizes are its own, whatever lies under `source`.
        domain_weights: the user's mix; equal if None.
        protected: units that must stay.
        unit: what goes: layers, or their attention or MLP.
        seed: of every random choice.
        slots: which layers may stand where, see `registry.Problem`.
        crew: processes that score together; None where this one is alone.
        prediction_share: of each document's predictions that an evaluator made here reads; None: by the model's head.
    """

    source: str
    num_layers: int
    criterion: str
    analysis: Analysis | None = None
    model: nn.Module | None = None
    load_model: Callable[[], nn.Module] | None = None
    domains: Mapping[str, Domain] | None = None
    load_domains: Callable[[], Mapping[str, Domain]] | None = None
    evaluator: Evaluator | None = None
    locate: Callable[[], Path] | None = None
    score_cache: Path | None = None
    pad_token_id: int = 0
    in_memory: bool = False
    domain_weights: Mapping[str, float] | None = None
    protected: frozenset[int] = frozenset()
    unit: Unit = "layer"
    seed: int = 0
    slots: Slots | None = None
    crew: Crew | None = None
    prediction_share: float | None = None
    _answers: Evaluator | None = None
    _figures: ScoreCache | None = None
    _apart: bool = False

    @property
    def units(self) -> Units:
        """What subsets are made of."""
        return Units(self.num_layers, self.unit)

    @property
    def singles(self) -> list[tuple[int, ...]]:
        """The subsets that lack one unit."""
        full = range(self.units.size)
        return [tuple(other for other in full if other != unit) for unit in full]

    def unit_measures(self, whole: str, part: str) -> list[float]:
        """A measurement of every unit [L or 2L]; errors as in `measure`.

        Args:
            whole: key of the layers' figures.
            part: key of a part's figures, with `{}` where `attn` or `mlp` stands.
        """
        if not self.units.apart:
            return self.measure(whole).tolist()
        both = [self.measure(part.format(name)) for name in ("attn", "mlp")]  # [L] each
        return np.stack(both, axis=1).reshape(-1).tolist()  # [2L]

    def has_unit_measures(self, whole: str, part: str) -> bool:
        """Whether the analysis holds it."""
        keys = [part.format(name) for name in ("attn", "mlp")] if self.units.apart else [whole]
        return all(map(self.has_measure, keys))

    def measure(self, key: str) -> np.ndarray:
        """A measurement of the analysis, float64: the weighted mean over those of its domains that have it.

        The analysis' own figure averages over all tokens, so that the domain of the longest documents would decide.

        Raises:
            UsageError: there is no analysis, the weights name an unknown domain, or none that has the measurement.
            PruneError: it was not measured.
        """
        if self.analysis is None:
            raise UsageError(f"--criterion {self.criterion} reads measurements: give the directory of an analysis")
        names = self.measured_domains
        if not names and self.domain_weights is None:
            return self.analysis[key].astype(np.float64)
        weights = normalised(self.domain_weights or dict.fromkeys(names, 1.0), names)
        having = [name for name in names if f"by_domain/{name}/{key}" in self.analysis]
        if having and not (set(having) & set(weights)):
            raise UsageError(f"--domain_weights: no weight on a domain that has {key}: {', '.join(having)}")
        weights = normalised({n: w for n, w in weights.items() if n in having}, having) if having else weights
        return sum(  # type: ignore[return-value]
            (weight * self.analysis.of_domain(key, name).astype(np.float64) for name, weight in weights.items()),
            np.zeros(()),
        )

    @property
    def measured_domains(self) -> list[str]:
        """Domains of the analysis."""
        return self.analysis.domains if self.analysis is not None else []

    def has_measure(self, key: str) -> bool:
        """Whether the analysis holds a measurement."""
        return self.analysis is not None and key in self.analysis.measurements

    def require_model(self) -> nn.Module:
        """The model, fetched or loaded from `source` if it was not given."""
        if self.model is None:
            if self.load_model is not None:
                self.model = self.load_model()
            else:
                from prune.model import loading

                self.model = loading.load_model(self.source)
        return self.model

    def require_domains(self) -> Mapping[str, Domain]:
        """The documents.

        Raises:
            UsageError: there are none.
        """
        if not self.domains and self.load_domains is not None:
            self.domains = self.load_domains()
        if not self.domains:
            raise UsageError(
                f"--criterion {self.criterion} runs the model on documents: give --data NAME=PATH, or --strategy "
                "one_shot with an analysis that holds its measurement"
            )
        return self.domains

    def require_evaluator(self) -> Evaluator:
        """The evaluator, made from model and documents if it was not given.

        Raises:
            UsageError: there are no documents.
            PruneError: units that may go cannot be told apart.
        """
        if self.evaluator is None:
            from prune.planning.evaluator import Evaluator

            domains = self.require_domains()
            self.evaluator = Evaluator(
                self.require_model(),
                domains,
                self.domain_weights,
                cache=self.score_cache,
                pad_token_id=self.pad_token_id,
                seed=self.seed,
                unit=self.unit,
                prediction_share=self.prediction_share,
            )
            self.evaluator.crew = self.crew
        if not self._apart:
            self.evaluator.check_apart(set(range(self.units.size)) - self.protected)
            self._apart = True
        return self.evaluator

    def scoring(self, *, answers: bool = False) -> Evaluator:
        """The evaluator, or that of the documents that have a prompt."""
        evaluator = self.require_evaluator()
        if answers:
            evaluator = self._answers = self._answers or evaluator.answers_only()
        return evaluator

    def scores(
        self,
        keeps: Sequence[Sequence[int]],
        quantity: Quantity = "dnll",
        look: Look | None = None,
        *,
        answers: bool = False,
    ) -> list[Score]:
        """Evaluated subsets under this context's weights.

        Args:
            keeps: the units that stay, each.
            quantity: `dnll` or `kl`.
            look: for each domain the level of the evaluator's shares; all documents if None.
            answers: only documents that have a prompt.
        """
        evaluator = self.scoring(answers=answers)
        weights = self._weights(evaluator)
        return [
            score if weights is None else dataclasses.replace(score, weights=weights)
            for score in evaluator.score_many(keeps, quantity, look)
        ]

    def documents(self, quantity: Quantity = "dnll", *, answers: bool = False) -> Documents:
        """The costs of subsets by document, for a search that decides on some of them."""
        from prune.planning.paired import Costs, Documents, Ground

        evaluator = self.scoring(answers=answers)
        weights = normalised(self._weights(evaluator) or evaluator.weights, list(evaluator.domains))
        ground = Ground(
            tokens=evaluator.tokens_in_order(),
            weights=[weights.get(name, 0.0) for name in evaluator.domains],
            shares=list(evaluator.shares.values()),
        )

        def scores(keeps: Sequence[Sequence[int]], look: Look) -> list[Costs]:
            return [list(score.sums.values()) for score in evaluator.score_many(keeps, quantity, look)]

        return Documents(ground, scores)

    def _weights(self, evaluator: Evaluator) -> dict[str, float] | None:
        """The user's mix over the domains of an evaluator; None for its own.

        Raises:
            UsageError: no weight on any of them.
        """
        if self.domain_weights is None:
            return None
        known = self.require_evaluator().domains
        weights = {n: w for n, w in normalised(self.domain_weights, list(known)).items() if n in evaluator.domains}
        if not weights:
            raise UsageError(f"--domain_weights: no weight on a domain with prompts: {', '.join(evaluator.domains)}")
        return weights

    def layer_figures(self, quantity: str, data: str, compute: Callable[[], Sequence[float]]) -> list[float]:
        """One figure per unit [L or 2L] that depends on the model and `data` alone: from the cache, else computed.

        Args:
            quantity: what it is, the criterion's name.
            data: hash of what it was computed from besides the model.
            compute: makes all of them.
        """
        from prune.planning.score_cache import ScoreCache, model_fingerprint

        if self._figures is None:
            name = model_fingerprint(self.require_model()) if self.score_cache else ""
            self._figures = ScoreCache(self.score_cache, name)
        known = [self._figures.get(quantity, keep).get(data, math.nan) for keep in self.singles]
        if any(math.isnan(figure) for figure in known):  # the cache holds no NaN
            known = list(compute())
            for keep, figure in zip(self.singles, known, strict=True):
                self._figures.put(quantity, keep, [data], [figure])
            self._figures.commit()
        return known

    def check_depth(self, layers: int, where: str) -> None:
        """Refuse inputs of different depths.

        Raises:
            PruneError: `where` has another number of layers.
        """
        if layers != self.num_layers:
            raise PruneError(f"{where} has {layers} layers where {self.source} has {self.num_layers}: another model")


def normalised(weights: Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
    """The user's domain weights, divided by their sum, without zeros.

    Raises:
        UsageError: an unknown domain, a negative weight, or nothing above zero.
    """
    used = {name: weight for name, weight in check_weights(weights, names).items() if weight}
    return {name: weight / sum(used.values()) for name, weight in used.items()}
