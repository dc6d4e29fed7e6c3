"""`prune plan` on the embedded model: the command's function, the sweep, and re-planning from the analysis alone."""

from __future__ import annotations

import itertools
import json
import re

import pytest

import prune
from prune.embedded import HERE
from prune.errors import UsageError

FILES = {name: str(HERE / f"data/calibration/{name}.jsonl") for name in ("stories", "arithmetic")}


@pytest.fixture(scope="module")
def analysed(tmp_path_factory):
    directory = tmp_path_factory.mktemp("planned") / "analysis"
    prune.analyze(
        "embedded", FILES, output=directory, seq_length=48, calib_num_samples=3, bootstrap=10,
        measure=["contributions", "angular"],
    )  # fmt: skip
    return directory


@pytest.fixture(scope="module")
def swept(analysed):
    target = analysed.parent / "frontier"
    return target, prune.plan(analysed, output=target, sweep=True, num_layers=13, domain_weights={"arithmetic": 1.0})


def test_the_frontier_has_every_depth_with_intervals_per_domain(swept):
    target, _ = swept
    found = json.loads((target / "frontier.json").read_text())
    assert [point["num_layers"] for point in found["points"]] == [16, 15, 14, 13]
    assert found["points"][0]["score"] == {"value": 0.0, "lo": 0.0, "hi": 0.0}
    for point in found["points"][1:]:
        assert set(point["by_domain"]) == {"stories", "arithmetic"}
        for score in (point["score"], *point["by_domain"].values()):
            assert score["lo"] <= score["value"] <= score["hi"]
        assert point["score"]["value"] == pytest.approx(point["by_domain"]["arithmetic"]["value"])
    nested = [set(point["drop"]) for point in found["points"]]
    assert all(a < b for a, b in itertools.pairwise(nested))


def test_the_plot_is_self_contained_and_every_depth_has_a_plan(swept):
    target, frontier = swept
    page = (target / "frontier.html").read_text()
    assert "default-src 'none'" in page
    tags = re.sub(r"(<script[^>]*>).*?(</script>)", r"\1\2", page, flags=re.S)
    assert re.search(r"src=|href=\"(?!data:)", tags) is None
    for plan in frontier.plans[1:]:
        assert json.loads((target / f"plans/{len(plan.keep)}.json").read_text())["drop"] == plan.drop


def test_a_plan_after_the_sweep_scores_nothing_and_agrees(analysed, swept):
    plan = prune.plan(analysed, output=analysed.parent / "plan.json", num_layers=14, domain_weights={"arithmetic": 1.0})
    assert plan.evaluations["layer_evaluations"] == 0
    assert plan.drop == next(p.drop for p in swept[1].plans if len(p.keep) == 14)


def test_the_analysis_alone_plans_again_without_the_model(analysed, monkeypatch):
    def forbidden(*_, **__):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("prune.model.loading.load_model", forbidden)
    frontier = prune.plan(
        analysed,
        output=analysed.parent / "angular",
        criterion="angular",
        strategy="contiguous",
        sweep=True,
        drop_fraction=0.25,
    )
    points = frontier.points()
    assert [point["num_layers"] for point in points] == [16, 15, 14, 13, 12]
    assert set(points[-1]["by_domain"]) == {"stories", "arithmetic"}
    assert points[-1]["score"]["lo"] is None
    assert (
        len(prune.plan(analysed, output=analysed.parent / "bi.json", criterion="block_influence", num_layers=12).drop)
        == 4
    )


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({"target_params": 5}, "sweep ends at"),
        ({"num_layers": 16}, "sweep: ends at 16"),
        ({"num_layers": 0}, "0 lay"),
        ({"drop_fraction": 0.0}, r"drop_fraction 0\.0: give a number above 0"),
    ],
)
def test_a_sweep_without_an_end_is_refused(analysed, tmp_path, budget, message):
    with pytest.raises(UsageError, match=message):
        prune.plan(analysed, output=tmp_path / "none", sweep=True, **budget)
    assert not (tmp_path / "none").exists()


def test_a_layer_protected_under_two_numbers_counts_once(analysed, tmp_path):
    options = {"criterion": "block_influence", "sweep": True}
    frontier = prune.plan(analysed, output=tmp_path / "swept", protect=[*range(1, 16), -1], **options)
    assert [plan.drop for plan in frontier.plans] == [[], [0]]
