"""An analysis as a value: a mapping with named axes, tables, and a look for terminals and notebooks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from prune.analysis import analyze
from prune.analysis.axes import axes
from prune.analysis.registry import GROUPS, MEASURES
from prune.analysis.result import Analysis, NotMeasured
from prune.data.domains import Document, Domain
from prune.errors import PruneError, UsageError
from tests.analysis.tiny import tiny

L = 6


@pytest.fixture(scope="module")
def measured() -> Analysis:
    """Everything that can be measured, of a tiny model on two domains."""
    rng = np.random.default_rng(0)

    def documents(count: int, difficulty: bool) -> tuple[Document, ...]:
        return tuple(
            Document(tuple(map(int, rng.integers(3, 60, 16))), 10, float(i) if difficulty else None)
            for i in range(count)
        )

    domains = {name: Domain(name, documents(3, name == "math"), name, name) for name in ("math", "chat")}
    return analyze(tiny("llama"), domains, measure=("all", *GROUPS["prompts"]), bootstrap=10, swap_distances=(1, 2))


def plain(analysis: Analysis) -> list[str]:
    return [key for key in analysis if not key.endswith((".lo", ".hi"))]


def test_an_analysis_is_a_mapping_of_its_keys(measured):
    assert isinstance(measured, Mapping)
    assert "block_influence" in measured
    assert "block_influences" not in measured
    assert list(measured) == list(measured.measurements)
    assert len(measured) == len(measured.measurements) > 100
    assert measured.get("nothing") is None
    assert dict(measured.items())["block_influence"] is measured["block_influence"]


def test_what_was_not_measured_is_named_whether_it_is_caught_as_a_key_or_as_our_error(measured):
    for kind in (KeyError, PruneError):
        with pytest.raises(kind) as error:
            measured["nothing"]
        assert str(error.value).startswith("the analysis holds no 'nothing': run `prune analyze` again")


def test_every_figure_of_every_measure_has_named_axes_of_its_shape(measured):
    assert set(measured.info["options"]["measures"]) == set(MEASURES)
    for key in plain(measured):
        _, domain, own = key.split("/", 2) if key.startswith("by_domain/") else ("", None, key)
        array = measured.array(own, domain)
        assert array.shape == measured[key].shape, key
        np.testing.assert_array_equal(array.values, measured[key])
        assert all(dim in array.coords for dim in array.dims), key


@pytest.mark.parametrize(
    ("key", "dims"),
    [
        ("relative_contribution/attn", {"layer": range(L)}),
        ("output_effect/dnll", {"layer": range(L)}),
        ("lens/kl", {"depth": range(L + 1)}),
        ("final_share", {"writer": ["embedding", *(f"layer {i}" for i in range(L))]}),
        ("angular_distance/last", {"from_depth": range(L + 1), "to_depth": range(L + 1)}),
        ("skip_effect/layer/mean", {"skipped": range(L), "affected": range(L)}),
        ("swap_effect/by_2/kl", {"layer": range(L - 2)}),
        ("width/top_share", {"depth": range(L + 1), "directions": [1, 4, 16]}),
        ("erasure/kl", {"layer": range(L), "segment": range(8)}),
    ],
)
def test_axes_have_the_field_s_names_and_count_from_zero(measured, key, dims):
    array = measured.array(key)
    assert {name: list(array[name].values) for name in array.dims} == {name: list(c) for name, c in dims.items()}


def test_rows_of_an_effect_are_the_skipped_layers(measured):
    effect = measured.array("skip_effect/layer/mean")
    assert float(effect.sel(skipped=1, affected=3)) == measured["skip_effect/layer/mean"][1, 3] > 0
    assert float(effect.sel(skipped=3, affected=1)) == 0  # nothing is felt before it happened


def test_an_interval_stands_beside_its_figure_and_alone(measured):
    array = measured.array("output_effect/dnll", domain="math")
    for end in ("lo", "hi"):
        stored = measured[f"by_domain/math/output_effect/dnll.{end}"]
        np.testing.assert_array_equal(array[end].values, stored)
        np.testing.assert_array_equal(measured.array("output_effect/dnll", "math", end=end).values, stored)
        np.testing.assert_array_equal(measured.array(f"output_effect/dnll.{end}", "math").values, stored)
    assert bool((array.lo <= array).all() & (array <= array.hi).all())
    assert array.attrs == {"model": measured.info["model"], "domain": "math", "units": "nats"}


def test_an_unknown_domain_key_or_end_is_named(measured):
    with pytest.raises(UsageError, match=r"domain: unknown domain 'maths' \(did you mean 'math'"):
        measured.array("block_influence", domain="maths")
    with pytest.raises(NotMeasured, match="by_domain/math/nothing"):
        measured.array("nothing", domain="math")
    with pytest.raises(UsageError, match="end: 'mid'"):
        measured.array("block_influence", end="mid")


def test_an_array_that_no_rule_names_is_an_error_not_a_guess():
    with pytest.raises(PruneError, match=r"new: an array of shape \[9\] has no axis names"):
        axes("new", (9,), L)


def test_the_frame_holds_every_figure_that_is_one_a_layer_and_no_other(measured):
    frame = measured.frame()
    expected = {key for key in plain(measured) if key.split("/")[0] != "by_domain" and measured[key].shape == (L,)}
    expected |= {key for key in plain(measured) if key.startswith("swap_effect/")}
    expected -= {key for key in expected if key.startswith(("depth_score", "difficulty"))}
    assert set(frame.columns) == expected
    assert frame.index.tolist() == list(range(L))
    assert frame.index.name == "layer"
    np.testing.assert_array_equal(frame["block_influence"].to_numpy(), measured["block_influence"])
    assert frame["swap_effect/kl"].isna().tolist() == [False] * (L - 1) + [True]
    math = measured.frame("math", intervals=True)
    np.testing.assert_array_equal(math["output_effect/kl.hi"], measured["by_domain/math/output_effect/kl.hi"])


def test_a_saved_analysis_equals_itself_read_back(measured, tmp_path):
    measured.save(tmp_path / "a")
    read = Analysis.load(str(tmp_path / "a"))
    assert read == measured
    read.measurements["block_influence"] = read["block_influence"] + 1
    assert read != measured


def test_a_terminal_and_a_notebook_show_data_warnings_and_the_figures(measured):
    shown = Analysis({**measured.info, "model": "<b>evil</b>", "warnings": ["few & far"]}, measured.measurements)
    text, page = repr(shown), shown._repr_html_()
    assert text.splitlines()[0].startswith("<b>evil</b>: 6 layers")
    assert "warning: few & far" in text
    assert "<b>evil" not in page
    assert "&lt;b&gt;evil&lt;/b&gt;" in page
    assert "few &amp; far" in page
    for figure in measured["block_influence"]:
        assert f"{figure:.4f}" in text
        assert f"{figure:.4f}" in page
    data = next(part for part in text.split("\n\n") if part.strip().startswith("data"))
    assert [line.split() for line in data.splitlines()[1:]] == [
        [name, "3", "48", "0", "0"] for name in ("math", "chat")
    ]


def test_an_analysis_of_nothing_can_be_shown():
    empty = Analysis({"num_layers": 2, "model": "m"})
    assert "nothing measured" in repr(empty)
    assert "nothing measured" in empty._repr_html_()
    assert empty.frame().shape == (2, 0)
