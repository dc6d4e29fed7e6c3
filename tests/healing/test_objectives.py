"""The registry of objectives: one file and one line each, and everything else follows."""

from __future__ import annotations

import pytest
import torch

from prune.healing import objective
from prune.healing.objective import batch_losses
from prune.healing.objectives import OBJECTIVES, PARTS, WEIGHTS, Objective, Seen
from prune.healing.settings import HealSettings
from prune.runs.recipe import HealRecipe

from . import tiny


def test_weights_are_settings_and_parts_are_told_apart() -> None:
    assert set(WEIGHTS) <= set(HealSettings.model_fields)
    assert len(set(PARTS)) == len(PARTS) == 4
    with pytest.raises(
        ValueError, match="give distill_weight, next_token_weight, entropy_weight or residual_weight a value above 0"
    ):
        HealSettings(distill_weight=0, next_token_weight=0)


@pytest.mark.parametrize(
    ("weights", "teacher", "states"),
    [
        ({"distill_weight": 0, "next_token_weight": 1}, False, False),
        ({"distill_weight": 1, "next_token_weight": 0}, True, False),
        ({"distill_weight": 0, "next_token_weight": 0, "entropy_weight": 1}, True, False),
        ({"distill_weight": 0, "next_token_weight": 0, "residual_weight": 1}, True, True),
    ],
)
def test_settings_say_what_their_objectives_need(weights: dict[str, float], teacher: bool, states: bool) -> None:
    settings = HealSettings(**weights)  # type: ignore[arg-type]
    assert (settings.needs_teacher, settings.needs_states) == (teacher, states)


def test_a_new_objective_is_added_by_its_line_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def unsure(seen: Seen, settings: HealSettings) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        p = seen.logits.float().softmax(-1)  # [N, V]
        total = -(p * p.log()).sum()
        return 3 * total, {"unsure": total.detach()}

    toy = Objective(("next_token_weight",), unsure, ("unsure",), needs_teacher=lambda settings: False)
    model = tiny.teacher()
    rows = [torch.arange(1, 9), torch.arange(2, 10)]
    batch = {"input_ids": torch.stack(rows), "labels": torch.stack(rows)}
    settings = tiny.settings(distill_weight=0, next_token_weight=1)
    plain = batch_losses(model, batch, settings, head=model.get_output_embeddings())
    monkeypatch.setattr(objective, "OBJECTIVES", (*OBJECTIVES, toy))
    both = batch_losses(model, batch, settings, head=model.get_output_embeddings())
    p = model(batch["input_ids"]).logits[:, :-1].double().softmax(-1)  # [B, T-1, V]
    expected = -(p * p.log()).sum()
    assert both.parts["unsure"].item() == pytest.approx(expected.item(), rel=1e-4)
    assert both.total.item() == pytest.approx(plain.total.item() + 3 * expected.item(), rel=1e-4)
    assert both.parts["next_token"] == plain.parts["next_token"]


def test_whole_weights_learn_slower_than_adapters_unless_a_rate_is_given() -> None:
    assert HealSettings().for_width(4096).learning_rate == pytest.approx(1.7 / 4096)
    assert HealSettings(method="dora").for_width(64).learning_rate == 3e-3
    assert HealSettings(learning_rate=5e-4).for_width(64).learning_rate == 5e-4
    assert HealSettings(method="full").for_width(64).learning_rate == pytest.approx(6e-4)
    assert HealSettings(method="full").for_width(4096).learning_rate == pytest.approx(0.34 / 4096)
    assert HealSettings(method="full", learning_rate=5e-3).learning_rate == 5e-3
    assert HealRecipe(method="full").for_width(64).learning_rate == pytest.approx(6e-4)
