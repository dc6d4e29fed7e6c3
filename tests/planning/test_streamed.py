"""Scoring with the layers on disk: the plans and scores of a loaded model, every weight read once a sweep."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import prune
from prune.analysis.streamed import Streaming
from prune.embedded import MODEL
from prune.errors import UsageError
from prune.model.streaming import StreamedModel
from prune.planning.streamed import StreamedEvaluator
from tests.planning.small import build, domains, naive_nll, shortened


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("streamed") / "model"
    build("qwen3").save_pretrained(directory, max_shard_size="30KB")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(MODEL / name, directory)
    return directory


def rows() -> dict[str, list[dict[str, list[int]]]]:
    return {name: [{"input_ids": list(d.input_ids)} for d in domain.documents] for name, domain in domains().items()}


@pytest.mark.parametrize(
    ("strategy", "loaded", "criterion", "sweeps"),
    [
        ("greedy_full", "greedy_full", "dnll", 2),
        ("one_shot", "one_shot", "dnll", 2),
        ("blocks", "blocks", "kl", None),
        ("greedy", "greedy_full", "dnll", 2),  # a race would read all weights for a few documents
    ],
)
def test_a_streamed_plan_is_that_of_the_loaded_model(
    checkpoint: Path, tmp_path: Path, strategy: str, loaded: str, criterion: str, sweeps: int | None
) -> None:
    asked = {"num_layers": 6, "criterion": criterion}
    plain = prune.plan(str(checkpoint), rows(), strategy=loaded, **asked)
    found = prune.plan(
        str(checkpoint), rows(), strategy=strategy, stream=True, stream_memory=0, output=tmp_path / "plan.json", **asked
    )
    assert (found.keep, found.order) == (plain.keep, plain.order)
    assert found.scores == plain.scores
    model = StreamedModel(str(checkpoint))
    layers = model.checkpoint_bytes - model.bytes_read
    assert found.evaluations["bytes_read"] % layers == 0
    assert sweeps is None or found.evaluations["bytes_read"] == sweeps * layers
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plan.json"]  # the streams are gone


def test_scores_are_those_of_models_without_the_layers(checkpoint: Path, tmp_path: Path) -> None:
    evaluator = StreamedEvaluator(Streaming(StreamedModel(str(checkpoint)), 0, tmp_path), domains(), batch_size=2)
    keeps = [(0, 1, 2, 3, 4, 5, 6), (1, 2, 3, 4, 5, 6, 7), (0, 2, 4, 6), (0, 1, 2, 3, 6, 7), (0, 1, 2, 3, 4, 5, 6, 7)]
    found = evaluator.score_many(keeps)
    whole = build("qwen3")
    for keep, score in zip(keeps, found, strict=True):
        cut = shortened(build("qwen3"), [layer for layer in range(8) if layer not in keep])
        for name, domain in domains().items():
            assert score.by_domain[name] == pytest.approx(naive_nll(cut, domain) - naive_nll(whole, domain), abs=1e-5)
    assert evaluator.score(keeps[2]).total == found[2].total
    assert evaluator.work.bytes_read == evaluator.streaming.model.checkpoint_bytes - _resident(checkpoint)


def _resident(checkpoint: Path) -> int:
    return StreamedModel(str(checkpoint)).bytes_read


def test_what_cannot_be_streamed_is_refused(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = {
        "criterion taylor: reads the weights": {"criterion": "taylor"},
        "strategy evolutionary: not with": {"strategy": "evolutionary"},
        "unit sublayer: not with": {"unit": "sublayer"},
        "stream and device_map exclude each other": {"device_map": "auto"},
    }
    for message, asked in cases.items():
        with pytest.raises(UsageError, match=message):
            prune.plan(str(checkpoint), rows(), num_layers=6, stream=True, **asked)
    with pytest.raises(UsageError, match="stream: the model is in memory already"):
        prune.plan(build(), rows(), num_layers=6, stream=True)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10})())
    with pytest.raises(UsageError, match=r"stream: streams of .* subsets need"):
        prune.plan(str(checkpoint), rows(), num_layers=6, stream=True, stream_memory=0)
