"""The registry of families: a line is enough, and everything that cuts follows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prune.checkpoint.depth_fields import NOT_PER_LAYER, PER_LAYER
from prune.errors import PruneError
from prune.surgery.config_fields import check_causal, edit_config
from prune.surgery.families import FAMILIES, KNOWN, Family, Removal
from prune.surgery.families.patterns import alike

ROOM = Path(__file__).resolve().parents[2] / "prune" / "surgery"
CONFIG: dict[str, Any] = {"model_type": "toy", "num_hidden_layers": 6, "cycle": [1, 2]}


def unroll(removal: Removal) -> None:
    removal.text["cycle"] = [removal.text["cycle"][i % 2] for i in removal.keep]


@pytest.mark.parametrize(
    ("family", "keep", "match"),
    [
        (Family(derives=alike, never="it has no layers"), [0, 1], "toy cannot be cut: it has no layers"),
        (Family(derives=alike, only_last="it counts"), [0, 2], "only layers at the end can go"),
        (Family(derives=alike, first_stays="it reads"), [1, 2], "keep layer 0"),
        (Family(derives=alike, last_stays="it writes"), [0, 1], "keep layer 5"),
    ],
)
def test_a_line_refuses(monkeypatch: pytest.MonkeyPatch, family: Family, keep: list[int], match: str) -> None:
    monkeypatch.setitem(FAMILIES, "toy", family)
    monkeypatch.setitem(KNOWN, "toy", alike)
    with pytest.raises(PruneError, match=match):
        edit_config(CONFIG, keep)


def test_a_line_edits_a_field_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, "toy", Family(derives=alike, edit=unroll))
    monkeypatch.setitem(KNOWN, "toy", alike)
    edited = edit_config(CONFIG, [0, 2, 3, 5])
    assert edited == {"model_type": "toy", "num_hidden_layers": 4, "cycle": [1, 1, 2, 2]}


def test_a_family_that_is_never_cut_is_refused_before_its_weights_are_looked_at() -> None:
    with pytest.raises(PruneError, match="hrm_text cannot be cut"):
        check_causal({"model_type": "hrm_text"})


def test_no_family_is_named_outside_its_room() -> None:
    names = [name for name in FAMILIES if len(name) > 5]
    for path in ROOM.glob("*.py"):
        text = path.read_text(encoding="utf8")
        assert not [name for name in names if f'"{name}"' in text], path


def test_a_field_means_one_thing() -> None:
    assert not PER_LAYER & NOT_PER_LAYER


def test_a_config_whose_class_raises_when_it_is_read_is_refused() -> None:
    """Gemma 3n computes its sharing of keys in a property; fifteen layers of four cannot share."""
    with pytest.raises(PruneError, match=r"config\.json: gemma3n_text refuses its values"):
        edit_config({"model_type": "gemma3n_text", "num_hidden_layers": 4}, [0, 2, 3])
