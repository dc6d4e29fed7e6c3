"""The analysis as the Python functions give it: with figures, and with what it was made from at hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prune.analysis.result import Analysis as Measurements

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from transformers import PreTrainedModel

    from prune.data.domains import Domain


@dataclass
class Origin:
    """What an analysis in memory was made from, for `prune.plan`: nothing of it is written.

    Attributes:
        model: the loaded model that the caller gave; None where it came from a directory, which can be read again.
        domains: the documents.
    """

    model: PreTrainedModel | None
    domains: Mapping[str, Domain]


@dataclass(eq=False, repr=False)
class Analysis(Measurements):
    """Measurements of one model on one calibration set: a mapping of keys to float32 arrays.

    `prune.Analysis.load(DIR)` reads one that `prune analyze` wrote.

    Attributes:
        info: JSON-serialisable: `model`, `num_layers`, `data` (documents, tokens and exclusions by domain), `scalars`,
            `phase_changes`, `stability`, `warnings` ...
        measurements: key -> float32 array; shapes as in prune/analysis/README.md.
        origin: what it was made from, where that is still in memory. A loaded model stays in memory as long as this.
    """

    origin: Origin | None = field(default=None, repr=False)

    def plot(self, name: str, domain: str | None = None, *, lang: str = "en") -> go.Figure:
        """A Plotly figure: `analysis.plot("relative_contribution")`.

        Args:
            name: `relative_contribution`, `contribution_cosine`, `loss_without_layer`, `angular_distance`,
                `depth_by_difficulty`; or the key of a measurement, such as `lens/kl` or `skip_effect/layer/mean`.
            domain: of that domain's documents only; of all if None.
            lang: of its words, `en` or `ja`.

        Raises:
            UsageError: no figure of that name; names those that there are.
            PruneError: it was not measured.
        """
        from prune.reporting.notebook import plot

        return plot(self, name, domain, lang)
