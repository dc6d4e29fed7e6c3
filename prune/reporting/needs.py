"""Which layers each domain needs: what is left of its answers, or of its next tokens, without each one.

Domains whose documents have answers are judged by the answers that the model still gives; plain text has none and is
judged by the tokens whose likeliest successor stays the same. Both are shares of what the whole model does.
"""

from __future__ import annotations

from dataclasses import dataclass

from prune.reporting.data import AnalysisView

ANSWERS, CHOICES = "output_effect/answer_accuracy", "output_effect/top1"
NEEDED = 0.5  # a layer is needed where surely (by the interval) less than this share is left without it
SPARE = 0.95  # and not needed where at least this share is left


@dataclass(frozen=True)
class Need:
    """One domain.

    Attributes:
        domain: its name; None for all documents.
        answers: whether it is judged by answers, or else by next tokens.
        clean: the share that the whole model has right; of next tokens 1 by definition.
        kept: [L], the share without each layer.
        ends: [L] lower and upper ends of its interval, where there is one.
    """

    domain: str | None
    answers: bool
    clean: float
    kept: list[float]
    ends: tuple[list[float | None], list[float | None]] | None = None

    def with_ends(self) -> list[tuple[float, float | None, float | None]]:
        """[L] the share without each layer and the ends of its interval."""
        low, high = self.ends or ([None] * len(self.kept), [None] * len(self.kept))
        return list(zip(self.kept, low, high, strict=True))

    def left(self, layer: int) -> float:
        """The share of what the whole model has right that is left without a layer; at most 1."""
        return min(1.0, self.kept[layer] / self.clean)

    def needs(self, layer: int) -> bool:
        """Whether less than `NEEDED` is left without a layer, at the upper end of its interval where there is one."""
        at_most = self.kept[layer] if self.ends is None else self.ends[1][layer]
        return at_most is not None and at_most < NEEDED * self.clean


def needs(view: AnalysisView) -> list[Need]:
    """One entry a domain; nothing where no document has an answer."""
    if view.get(ANSWERS) is None:
        return []
    domains: list[str | None] = [*view.domains] or [None]
    return [found for domain in domains if (found := _need(view, domain)) is not None]


def _need(view: AnalysisView, domain: str | None) -> Need | None:
    answers = view.get(ANSWERS, domain) is not None
    key = ANSWERS if answers else CHOICES
    kept, low, high = view.get(key, domain), view.get(f"{key}.lo", domain), view.get(f"{key}.hi", domain)
    prefix = f"by_domain/{domain}/" if domain is not None else ""
    clean = view.scalars.get(f"{prefix}answer_accuracy_clean") if answers else 1.0
    if kept is None or clean is None or None in kept:
        return None
    return Need(domain, answers, clean, kept, (low, high) if low is not None and high is not None else None)
