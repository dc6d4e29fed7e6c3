"""Figures draw the report's own numbers, and one series never hides another."""

from __future__ import annotations

import pytest

from evals.speculation import expected_speedup
from prune.reporting.figures import acceptance_needed, accuracy_by_depth
from prune.wording.text import Text

from .sample import sample_report


def test_where_pruned_and_healed_score_the_same_both_can_be_seen() -> None:
    data = sample_report()
    for candidate in data.candidates:
        if candidate.stage != "original":
            candidate.evidence[0].candidate = 0.9
    pruned, healed = accuracy_by_depth(data, "stories", Text()).data
    assert pruned.y == healed.y == (data.original.suites["stories"].value, 0.9, 0.9, 0.9)
    assert pruned.x[0] == healed.x[0] == 16
    gaps = [left - right for left, right in zip(pruned.x[1:], healed.x[1:], strict=True)]
    assert gaps == pytest.approx([gaps[0]] * 3)
    assert 0.1 < gaps[0] < 0.5  # apart, yet each nearer to its own depth than to any other
    assert (pruned.marker.symbol, healed.marker.symbol) == ("circle-open", "circle")
    assert pruned.marker.size > healed.marker.size + 4
    assert pruned.line.dash != healed.line.dash
    assert healed.customdata[1] == "14 layers, healed"  # what the pointer reads off is the depth, not the shifted place


def test_a_line_of_needed_acceptance_gives_its_speed_up_and_ends_at_its_ceiling() -> None:
    data = sample_report()
    *lines, tried = acceptance_needed(data, Text()).data
    assert [line.name for line in lines] == ["1.00×", "1.30×", "1.60×", "2.00×"]
    for line, speedup in zip(lines, (1.0, 1.3, 1.6, 2.0), strict=True):
        for cost, alpha in zip(line.x, line.y, strict=True):
            best = max(expected_speedup(alpha, tokens, cost) for tokens in range(1, 17))
            assert best == pytest.approx(speedup, abs=0.04) or (speedup == 1.0 and best >= 1)
        assert max(line.x) <= 1 / speedup
    measured = [d for d in data.drafts if d.result.acceptance_rate is not None]
    assert list(tried.x) == [d.result.draft_cost for d in measured]
    assert list(tried.y) == [d.result.acceptance_rate for d in measured]
    data.drafts = []
    assert acceptance_needed(data, Text()) is None
