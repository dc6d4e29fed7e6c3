"""The stage of costs: measured again when models are computed in another type, and kept when nothing changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prune.runs.inputs import RunInputs
from prune.runs.outputs import COSTS
from prune.runs.recipe import load_recipe
from prune.runs.stages.cost import measure_cost
from tests.runs.small import small_recipe


class Asked:
    """What a run directory is asked for."""

    def __init__(self) -> None:
        self.inputs: dict[str, Any] = {}

    def stage(self, name: str, outputs: Any, inputs: dict[str, Any], work: Callable[[Path], None]) -> None:
        assert (name, outputs) == ("cost", COSTS)
        self.inputs = inputs


def depends_on(folder: Path, **changes: Any) -> dict[str, Any]:
    recipe = load_recipe(small_recipe(folder)).model_copy(update=changes)
    asked = Asked()
    measure_cost(RunInputs(recipe, folder), asked, {})  # type: ignore[arg-type]
    return asked.inputs


@pytest.mark.parametrize("changes", [{"dtype": "bfloat16"}, {"attn_implementation": "eager"}, {"device_map": "auto"}])
def test_what_moves_a_speed_is_what_the_stage_depends_on(tmp_path, changes):
    before, after = depends_on(tmp_path, dtype="float32"), depends_on(tmp_path, **{"dtype": "float32", **changes})
    assert before == depends_on(tmp_path, dtype="float32")
    assert before != after
