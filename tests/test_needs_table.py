"""The README's table of needs is what the formulas give, for models of the size that they have."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SPEC = importlib.util.spec_from_file_location("needs_table", ROOT / "scripts/needs_table.py")
assert SPEC is not None
assert SPEC.loader is not None
needs = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(needs)


@pytest.mark.parametrize(
    ("model", "published"),
    [("SmolLM2-135M", 134_515_008), ("Llama-3.2-1B", 1_235_814_400), ("Llama-3.1-8B", 8_030_261_248),
     ("Llama-3.1-70B", 70_553_706_496)],
)  # fmt: skip
def test_a_model_has_as_many_weights_as_its_publisher_says(model: str, published: int) -> None:
    assert needs.llama(*needs.MODELS[model]).parameters == published


def test_the_readme_has_the_table_as_it_is_computed() -> None:
    assert needs.table() in (ROOT / "README.md").read_text(encoding="utf8")


def test_every_step_holds_at_least_the_weights_and_the_stream_less_where_the_model_is_large() -> None:
    for line in needs.table().splitlines()[2:]:
        weights, analyze, streamed, heal, evaluate = (float(cell.split()[0]) for cell in line.split(" | ")[1:6])
        assert weights < min(analyze, heal, evaluate)
        assert (streamed < analyze) == (weights > 10)
