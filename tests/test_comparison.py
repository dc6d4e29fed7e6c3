"""Comparing checkpoints: the front, depth use by its formula, and the command on real models."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import yaml

import prune
from evals.cost import Footprint
from evals.evidence import Evidence, SuiteEvidence
from evals.throughput import Throughput
from prune.analysis.result import Analysis
from prune.comparison import Compared, Comparison, depth_use, mark_pareto, pair_of
from prune.embedded import HERE
from prune.errors import PruneError, UsageError

STORIES = str(HERE / "data/calibration/stories.jsonl")


def row(name: str, retention: float | None, speed: float, verdict: str | None = "PASS") -> Compared:
    """A checkpoint on one suite; the reference where there is no verdict."""
    suite = SuiteEvidence(
        name="math", title="Math", tasks=[], n=100, original=0.5, candidate=0.5, chance=0.0, retention=retention,
        floor=0.95, verdict=verdict or "PASS", alpha=0.05,
    )  # fmt: skip
    throughput = Throughput("cpu", 1, "float32", 1, 8, 4, 100.0, speed, (0.1,), (0.1,))
    return Compared(
        name=name, footprint=Footprint(parameters=10, bytes=20, kv_bytes_per_token=2, layers=4), throughput=throughput,
        evidence=[suite], is_reference=verdict is None,
    )  # fmt: skip


def test_the_pareto_front_keeps_what_nothing_beats():
    original, good, slow, poor = (
        row("original", None, 100, None),  # retention 1 by definition
        row("good", 0.9, 150),
        row("slow", 0.9, 140),
        row("poor", 0.5, 200),
    )
    unknown = row("unknown", None, 120, "INCONCLUSIVE")
    mark_pareto([original, good, slow, poor, unknown])
    assert [m.pareto for m in (original, good, slow, poor, unknown)] == [True, True, False, True, None]


def test_equal_checkpoints_share_the_front():
    twins = [row("a", 0.9, 100), row("b", 0.9, 100)]
    mark_pareto(twins)
    assert [m.pareto for m in twins] == [True, True]


def test_depth_use_is_the_weighted_mean_layer():
    contribution = np.array([1.0, 2.0, 1.0, 4.0], dtype=np.float32)
    arrays = {
        "relative_contribution/layer": contribution,
        "block_influence": contribution / 10,
        "width/participation_ratio": np.array([2.0, 8.0, 4.0, 3.0, 1.0]),
    }
    found = depth_use(Analysis({"num_layers": 4}, arrays), width=32)
    assert found["depth_score"] == pytest.approx((0 * 1 + 1 * 2 + 2 * 1 + 3 * 4) / 8 / 3)
    assert found["width_used"] == 0.25


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    root = tmp_path_factory.mktemp("compare")
    prune.cut("embedded", root / "cut", drop_layers="9-11", verify=False)
    suite = {"name": "math", "tasks": [{"task": "demo_arithmetic_2da"}]}
    (root / "math.yaml").write_text(yaml.safe_dump(suite))
    found = prune.compare(
        ["embedded", str(root / "cut")], root / "out", suite=[str(root / "math.yaml")], limit=8,
        include_path=[str(HERE / "tasks")], data={"stories": STORIES}, depth_map=True, calib_num_samples=8,
        bootstrap=10, prompt_tokens=8, new_tokens=4, repeats=1,
    )  # fmt: skip
    return root, found


def test_compare_measures_quality_cost_depth_and_width(compared):
    root, found = compared
    original, cut = found.models
    assert (original.footprint.layers, cut.footprint.layers) == (16, 13)
    assert cut.footprint.parameters < original.footprint.parameters
    assert cut.footprint.bytes == sum(path.stat().st_size for path in (root / "cut").glob("*.safetensors"))
    judged = Evidence.load(root / "out/evidence/cut").suite("math")
    assert (original.suites["math"].value, cut.suites["math"].value) == (judged.original, judged.candidate)
    assert cut.suites["math"].retained == (judged.retention, judged.retention_lo, judged.retention_hi)
    assert original.suites["math"].verdict is None
    assert cut.suites["math"].verdict in ("PASS", "FAIL", "INCONCLUSIVE")
    assert 0 < original.depth_score < 1
    assert 0 < original.width_used <= 1
    assert len(cut.relative_contribution) == 13
    assert np.array(found.depth_map["error"]).shape == (17, 14)
    stored = Comparison.model_validate_json((root / "out/compare.json").read_text())
    assert stored.model_dump(mode="json") == found.model_dump(mode="json")


def test_the_pages_name_the_models(compared):
    root, _ = compared
    page = (root / "out/compare.html").read_text(encoding="utf8")
    assert "embedded · cut" in page
    assert "Pareto front" in page
    assert "unexplained" in (root / "out/depth_map.html").read_text(encoding="utf8")


@pytest.mark.parametrize(
    ("models", "options", "message"),
    [
        (["embedded"], {}, "two or more"),
        (["embedded", "embedded"], {}, "named twice"),
        (["embedded", "no_such_dir"], {}, "no_such_dir"),
        (["embedded", "cut"], {"depth_map": True}, "depth_map takes exactly two"),
        (["embedded", "cut"], {"size": "huge"}, "size 'huge'"),
    ],
)
def test_mistakes_are_named(tmp_path, compared, models, options, message):
    models = [str(compared[0] / m) if m == "cut" else m for m in models]
    with pytest.raises(UsageError, match=message):
        prune.compare(models, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_map_that_cannot_be_made_is_refused_before_anything_is_measured(tmp_path, compared, monkeypatch):
    root, _ = compared
    monkeypatch.setattr("prune.model.loading.load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    models = ["embedded", str(root / "cut")]
    with pytest.raises(PruneError, match="a depth map needs 6 documents or more, to hold some out; got 3"):
        prune.compare(models, tmp_path / "out", data={"stories": STORIES}, depth_map=True, calib_num_samples=3)
    # A tokenizer of its own, that reads the same text otherwise.
    other = tmp_path / "other"
    shutil.copytree(root / "cut", other)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    tokenizer["model"]["merges"] = tokenizer["model"]["merges"][:-200]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(UsageError, match="tokenizers split stories differently"):
        prune.compare(["embedded", str(other)], tmp_path / "out", data={"stories": STORIES}, depth_map=True)


def test_a_pair_has_the_memory_of_both_the_answers_of_the_first_and_the_speed_that_was_measured():
    original, draft = row("a", None, 40.0, None), row("b", 0.2, 90.0, "FAIL")
    pair = pair_of(original, draft, 1.5)
    assert pair.footprint.bytes == original.footprint.bytes + draft.footprint.bytes
    assert pair.footprint.kv_bytes_per_token == 2 * original.footprint.kv_bytes_per_token
    assert pair.footprint.layers == original.footprint.layers
    assert pair.throughput.decode_tokens_per_s == pytest.approx(60)
    assert (pair.quality, pair.name, pair.draft) == (1.0, "a + b", "b")
    assert pair.suites.keys() == original.suites.keys()
    rows = [original, draft, pair]
    mark_pareto(rows)
    assert [r.pareto for r in rows] == [False, True, True]
