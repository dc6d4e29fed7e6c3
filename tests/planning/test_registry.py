"""Names to criteria and strategies: the built-in ones, and those that an installed package adds by entry point."""

from __future__ import annotations

from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from prune.errors import PruneError, UsageError
from prune.planning import criteria, registry, strategies
from prune.planning.planner import make_plan
from prune.planning.registry import Criterion, Step, Strategy
from tests.planning.small import build

DEEP_FIRST = Criterion("the first layers go", lambda context, removals: [float(i) for i in range(context.num_layers)])
ONE_COST = Criterion(
    "one cost, however many subsets", lambda context, removals: [0.0] * 8, lambda context, keeps: [0.0]
)
EVERY_OTHER = Strategy("odd layers go", lambda p: iter([Step((1, 3), 0.0)]), free=False)


@pytest.fixture
def installed(monkeypatch):
    def install(*entries):
        points = EntryPoints(EntryPoint(name, value, group) for group, name, value in entries)
        monkeypatch.setattr(registry, "entry_points", lambda **chosen: points.select(**chosen))

    return install


def test_every_file_is_registered_and_describes_itself():
    for package, names, get in (
        (criteria, registry.CRITERIA, registry.get_criterion),
        (strategies, registry.STRATEGIES, registry.get_strategy),
    ):
        files = {path.stem for path in Path(package.__file__).parent.glob("*.py")} - {"__init__"}
        assert files == set(names)
        assert list(names) == sorted(names)
        assert all(get(name).summary for name in names)


def test_an_installed_criterion_and_strategy_are_used_by_name(installed):
    here = "tests.planning.test_registry"
    installed(("prune.criteria", "mine", f"{here}:DEEP_FIRST"), ("prune.strategies", "odd", f"{here}:EVERY_OTHER"))
    options = {"source": "made", "model": build(), "num_layers": 6}
    assert make_plan(criterion="mine", strategy="one_shot", **options).drop == [0, 1]
    assert make_plan(criterion="mine", strategy="odd", **options).drop == [1, 3]
    assert "mine" in registry.criterion_names()
    assert "odd" in registry.strategy_names()


def test_an_installed_package_is_found_by_its_metadata(tmp_path, monkeypatch):
    """What pip leaves behind: a module, and a dist-info folder whose entry points name it."""
    (tmp_path / "others_criterion.py").write_text(
        "from prune.planning.registry import Criterion\n"
        "MIDDLE = Criterion('the middle goes', lambda context, removals: [abs(i - 3.4) for i in range(8)])\n"
    )
    info = tmp_path / "others_criterion-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: others-criterion\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[prune.criteria]\nmiddle = others_criterion:MIDDLE\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    plan = make_plan(source="made", model=build(), criterion="middle", strategy="greedy", num_layers=6)
    assert (plan.order, plan.criterion, plan.strategy) == ([3, 4], "middle", "one_shot")


def test_a_broken_entry_point_is_named(installed):
    installed(("prune.criteria", "gone", "no.such.module:THING"), ("prune.criteria", "odd", "math:pi"))
    with pytest.raises(PruneError, match=r"criterion gone: entry point 'no.such.module:THING' cannot be loaded"):
        registry.get_criterion("gone")
    with pytest.raises(PruneError, match="is no Criterion"):
        registry.get_criterion("odd")
    with pytest.raises(UsageError, match="unknown strategy 'gone'"):
        registry.get_strategy("gone")


def test_a_criterion_that_answers_for_too_few_subsets_is_named(installed):
    installed(("prune.criteria", "lazy", "tests.planning.test_registry:ONE_COST"))
    with pytest.raises(PruneError, match="criterion lazy gives 1 costs for 8 subsets"):
        make_plan(source="made", model=build(), criterion="lazy", num_layers=6)
