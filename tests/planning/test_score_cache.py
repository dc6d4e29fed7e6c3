"""No subset is scored twice: by a larger budget, a second strategy, other weights, more documents or a resumed run."""

from __future__ import annotations

import dataclasses
import sqlite3

import pytest
import torch

from prune.errors import PruneError
from prune.planning.criteria import taylor
from prune.planning.evaluator import Evaluator
from prune.planning.planner import make_plan, sweep
from prune.planning.score_cache import ScoreCache, model_fingerprint
from tests.planning.small import LAYERS, build, domains


@pytest.fixture
def path(tmp_path):
    return tmp_path / "scores.sqlite"


def plan(model, path, **options):
    options = {"strategy": "greedy_full", "num_layers": 6, "domains": domains(), **options}
    return make_plan(source="made", model=model, score_cache=path, **options)


def test_the_same_request_again_runs_no_layer_and_gives_the_same_plan(path):
    model = build()
    first, again = plan(model, path), plan(model, path)
    assert again.evaluations["layer_evaluations"] == 0
    assert again.evaluations["subsets_from_cache"] == again.evaluations["subsets"] > LAYERS
    assert again.evaluations["naive_layer_evaluations"] == first.evaluations["naive_layer_evaluations"]
    assert again.model_dump(exclude={"evaluations"}) == first.model_dump(exclude={"evaluations"})


def test_a_larger_budget_scores_only_what_is_new(path):
    model = build()
    plan(model, path)
    larger = plan(model, path, num_layers=5).evaluations
    assert larger["subsets"] - larger["subsets_from_cache"] == LAYERS - 2  # the third step's candidates


def test_a_second_strategy_and_other_weights_start_from_what_is_known(path):
    model = build()
    plan(model, path)
    assert plan(model, path, num_layers=7, strategy="exhaustive").evaluations["layer_evaluations"] == 0
    weighted = plan(model, path, num_layers=7, domain_weights={"sums": 1.0})
    assert weighted.evaluations["layer_evaluations"] == 0


def test_more_documents_score_only_those(path):
    model, fewer = build(), domains()
    fewer["text"] = dataclasses.replace(fewer["text"], documents=fewer["text"].documents[:2])
    Evaluator(model, fewer, cache=path, batch_size=1).score((0, 1, 2))
    more = Evaluator(model, domains(), cache=path, batch_size=1)
    more.score((0, 1, 2))
    # Two new documents of text: for each, the clean pass; the subset's layers are the clean run's own.
    assert more.work.layers == 2 * LAYERS
    fresh = Evaluator(model, domains(), batch_size=1).score((0, 1, 2))
    assert more.score((0, 1, 2)).total == pytest.approx(fresh.total, abs=1e-9)


def test_a_killed_search_goes_on_where_it_stopped(path):
    model, whole = build(), build()
    complete = plan(whole, None)
    calls = 0

    def interrupt(*_):
        nonlocal calls
        calls += 1
        if calls == 90:
            raise KeyboardInterrupt

    hook = model.model.layers[7].register_forward_pre_hook(interrupt)
    killed = Evaluator(model, domains(), cache=path, batch_size=1)
    with pytest.raises(KeyboardInterrupt):
        make_plan(source="made", evaluator=killed, num_layers=6, strategy="greedy_full")
    hook.remove()
    saved = sqlite3.connect(path).execute("SELECT COUNT(*) FROM scores").fetchone()[0]
    assert saved > 0
    resumed = Evaluator(model, domains(), cache=path, batch_size=1)
    result = make_plan(source="made", evaluator=resumed, num_layers=6, strategy="greedy_full")
    assert result.order == complete.order
    # Scores of a killed search are not made again: what both made is what one search makes.
    total = sqlite3.connect(path).execute("SELECT COUNT(*) FROM scores").fetchone()[0]
    fresh = Evaluator(model, domains(), batch_size=1)
    make_plan(source="made", evaluator=fresh, num_layers=6, strategy="greedy_full")
    documents = sum(len(domain.documents) for domain in domains().values())
    assert total == documents * len(fresh.work.asked)
    assert resumed.work.layers < fresh.work.layers


def test_other_weights_configurations_or_types_are_other_models():
    model = build()
    prints = {model_fingerprint(model)}
    with torch.no_grad():
        model.model.layers[3].mlp.down_proj.weight[0, 0] += 1e-6
    prints.add(model_fingerprint(model))
    model.config.rms_norm_eps = 1e-4
    prints.add(model_fingerprint(model))
    prints.add(model_fingerprint(model.to(torch.bfloat16)))
    assert len(prints) == 4


def test_scores_of_one_model_are_not_given_to_another(path):
    plan(build(), path)
    other = build("qwen3")
    assert plan(other, path).evaluations["subsets_from_cache"] == 0


def test_a_non_finite_score_is_remembered_as_infinite(path):
    first = ScoreCache(path, "m")
    first.put("dnll", (0, 2), ["a", "b"], [1.5, float("nan")])
    first.commit()
    first.close()
    assert ScoreCache(path, "m").get("dnll", (0, 2)) == {"a": 1.5, "b": float("inf")}
    assert ScoreCache(path, "m").get("kl", (0, 2)) == {}
    assert ScoreCache(path, "n").get("dnll", (0, 2)) == {}


@pytest.mark.parametrize("content", [b"no database at all, " * 60, b""])
def test_a_file_that_is_no_cache_is_refused_unless_it_is_empty(path, content):
    path.write_bytes(content)
    if not content:
        assert len(ScoreCache(path, "m").get("dnll", (0,))) == 0
        return
    with pytest.raises(PruneError, match="score_cache another"):
        ScoreCache(path, "m")
    assert path.read_bytes() == content


def test_another_programs_database_is_refused(path):
    with sqlite3.connect(path) as base:
        base.execute("CREATE TABLE notes (text TEXT)")
    with pytest.raises(PruneError, match="not a score cache of this version"):
        ScoreCache(path, "m")


def test_taylor_runs_the_model_once_for_every_depth_strategy_and_later_run(path, monkeypatch):
    model, batches, real = build(), [], taylor.summed_nll
    monkeypatch.setattr(taylor, "summed_nll", lambda *given: batches.append(1) or real(*given))
    options = {"source": "made", "model": model, "domains": domains(), "criterion": "taylor", "score_cache": path}
    swept = sweep(depths=[7, 6, 5], strategy="one_shot", **options)
    first = len(batches)
    blocks = sweep(depths=[7, 6, 5], strategy="contiguous", **options)
    assert first == len(batches) == 2  # a batch for each of two domains
    assert swept[0].scores["layers"] == blocks[0].scores["layers"]
    make_plan(num_layers=6, domain_weights={"text": 0.9, "sums": 0.1}, **options)
    assert len(batches) == 4  # another mix is another gradient
    options["model"] = build(layers=LAYERS - 1)
    make_plan(num_layers=6, **options)
    assert len(batches) == 6  # and another model


def test_figures_of_layers_are_kept_without_a_file_for_one_search(monkeypatch):
    batches, real = [], taylor.summed_nll
    monkeypatch.setattr(taylor, "summed_nll", lambda *given: batches.append(1) or real(*given))
    sweep(source="made", model=build(), domains=domains(), criterion="taylor", depths=[7, 6, 5])
    assert len(batches) == 2


def test_a_full_disk_is_named_with_the_cure(path):
    cache, documents = ScoreCache(path, "model"), [f"document {i}" for i in range(5000)]
    cache._base.execute("PRAGMA max_page_count = 8")
    with pytest.raises(PruneError, match=r"scores\.sqlite: .*full.*; give score_cache another"):
        cache.put("dnll", (0, 1), documents, [0.0] * len(documents))


@pytest.mark.parametrize(
    "change",
    ["UPDATE scores SET value = 0.5", "UPDATE names SET name = 'b' WHERE name = 'a'", "UPDATE scores SET value = 'x'"],
)
def test_an_altered_score_is_no_score(path, change, caplog):
    first = ScoreCache(path, "m")
    first.put("dnll", (0, 2), ["a"], [1.5])
    first.commit()
    first.close()
    with sqlite3.connect(path) as base:
        base.execute(change)
    assert ScoreCache(path, "m").get("dnll", (0, 2)) == {}
    assert "1 scores were altered and are made again" in caplog.text
