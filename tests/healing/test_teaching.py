"""`prune teach` and `prune heal --targets`: what is kept is the original's own, and healing needs no more of it."""

from __future__ import annotations

import copy
import json
import random
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import evals.worker
import prune
from evals.runtimes import installed
from prune.data.domains import Document
from prune.embedded import MODEL
from prune.errors import PruneError, UsageError
from prune.healing import teaching
from prune.healing.buckets import of_likeliest
from prune.healing.heal import heal
from prune.healing.served import ServedModel
from prune.healing.settings import TeachSettings
from prune.healing.targets import Targets, shard_bounds
from prune.model.streaming import StreamedModel
from tests.analysis.test_processes import launched
from tests.planning.small import build, domains

from . import tiny

ONE_LAYER = {"cpu": "120KB"}
"""Of the model below, of 300 KB."""
WORDS = "a dog ran to the big red ball and a cat sat on the mat".split()
SMALL = {"max_steps": 2, "max_length": 32, "per_device_train_batch_size": 2, "eval_max_documents": 2, "seed": 0}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    draw = random.Random(0)
    texts = [" ".join(draw.choices(WORDS, k=draw.randrange(4, 12))) for _ in range(12)]
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    sums = [{"prompt": f"q={a};j=q+{b};j=", "completion": str(a + b)} for a in range(3) for b in range(3)]
    (folder / "math.jsonl").write_text("".join(json.dumps(row) + "\n" for row in sums))
    return {name: str(folder / f"{name}.jsonl") for name in ("text", "math")}


@pytest.fixture(scope="module")
def targets(data, tmp_path_factory):
    place = tmp_path_factory.mktemp("taught") / "targets"
    prune.teach("embedded", place, data=data, top_k=5, max_length=32)
    return place


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    place = tmp_path_factory.mktemp("cut") / "cut"
    prune.cut("embedded", place, drop_layers="11-12", verify=False)
    return str(place)


def test_the_rows_are_the_models_own_predictions_at_the_counted_tokens(targets, data, demo_model):
    from transformers import AutoTokenizer

    record = Targets(targets).record
    shard = load_file(targets / record["shards"][0]["file"])
    assert record["tokens"] == len(shard["log_probs"]) == sum(d["tokens"] for d in record["data"].values())
    assert 5 * 4 + 8 <= record["bytes_per_token"] < 5 * 4 + 8 + 4  # and the header
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(demo_model).float(),
        AutoTokenizer.from_pretrained(demo_model),
    )
    first = json.loads(open(data["text"]).readline())["text"]  # noqa: SIM115
    ids = tokenizer(first, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        q = model(input_ids=ids).logits[0, :-1].double().softmax(-1)
    count = len(q)
    best, tokens = q.topk(5)
    assert torch.equal(shard["tokens"][:count].long(), tokens)
    torch.testing.assert_close(shard["log_probs"][:count].double().exp(), best, rtol=5e-3, atol=1e-4)
    torch.testing.assert_close(shard["log_rest"][:count].double().exp(), 1 - best.sum(-1), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(shard["entropy"][:count].double(), -(q * q.log()).sum(-1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("packing", [True, False])
def test_with_all_tokens_kept_healing_is_that_of_the_original_itself(tmp_path, packing):
    original = tiny.teacher()
    domains = {"general": tiny.domain(), "more": tiny.domain("more", count=9, seed=3)}
    settings = tiny.settings(packing=packing, entropy_weight=0.3)
    live = heal(tiny.student(original), original, domains, settings, output_dir=tmp_path / "live")
    kept = taught(original, domains, tmp_path, top_k=0, targets_dtype="float32")
    alone = heal(tiny.student(original), None, domains, settings, targets=kept, output_dir=tmp_path / "alone")
    assert alone.packed is packing
    for name in ("loss", "distill_loss", "entropy_loss", "next_token_loss", "eval_loss"):
        ours, theirs = ([h[name] for h in result.history if name in h] for result in (alone, live))
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5), name
    assert alone.targets["top_k"] == 0
    for ours, theirs in zip(alone.model.parameters(), live.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-3)


def test_only_what_was_kept_reaches_the_loss(tmp_path):
    original = tiny.teacher()
    domains = {"general": tiny.domain()}
    settings = tiny.settings(next_token_weight=0.0, max_steps=2)

    def losses(**options):
        kept = taught(original, domains, tmp_path / str(len(list(tmp_path.iterdir()))), **options)
        result = heal(tiny.student(original), None, domains, settings, targets=kept, output_dir=tmp_path / "work")
        return [h["distill_loss"] for h in result.history if "distill_loss" in h]

    few, more, half = losses(top_k=2), losses(top_k=32), losses(top_k=32, targets_dtype="float32")
    assert few[0] < more[0]
    assert more == pytest.approx(half, rel=1e-3)


def taught(model, domains, place, **options):
    settings = TeachSettings(max_length=32, **options)
    lesson = teaching.lesson(domains, settings, tiny.VOCABULARY)
    facts = {"model": "tiny", "revision": None, "model_sha256": "x", "tokenizer_sha256": None}
    marks = teaching.marks_of(model)
    teach = teaching.taught_by(model, settings, 0)
    teaching.write_targets(teach, lesson, settings, facts, place / "work", marks=lambda: marks)
    found = Targets(place / "work" / teaching.DONE)
    found.require(domains, 32, None)
    return found


def test_a_cut_checkpoint_is_healed_without_its_original(cut, targets, data, tmp_path, monkeypatch):
    result = prune.heal(cut, tmp_path / "healed", targets=str(targets), data={"math": data["math"]}, **SMALL)
    record = json.loads((tmp_path / "healed/healing.json").read_text())
    assert record["targets"]["top_k"] == 5
    assert record["teacher"] == "embedded"
    assert 0 < record["targets"]["mass"] <= 1
    assert result.shared_layers == 0
    assert any(entry.get("distill_loss", 0) > 0 for entry in result.history)
    trained = {int(name.split("layers.")[1].split(".")[0]) for name in result.trained}
    assert min(trained) >= 10  # from_gap: the layers are recognised without the original's weights


def test_a_killed_teaching_goes_on_with_what_is_whole(data, tmp_path, monkeypatch, targets):
    monkeypatch.setattr(teaching, "SHARD_ROWS", 30)
    options = {"data": data, "top_k": 5, "max_length": 32}
    whole, calls = teaching._write_shard, []

    def fail_at_third(work, number, *rest):
        if number == 2:
            raise KeyboardInterrupt
        whole(work, number, *rest)

    monkeypatch.setattr(teaching, "_write_shard", fail_at_third)
    with pytest.raises(KeyboardInterrupt):
        prune.teach("embedded", tmp_path / "t", **options)
    assert not (tmp_path / "t").exists()
    work = tmp_path / ".t.teaching"
    monkeypatch.setattr(
        teaching, "_write_shard", lambda work, number, *r: (calls.append(number), whole(work, number, *r))
    )
    with pytest.raises(UsageError, match=r"add resume"):
        prune.teach("embedded", tmp_path / "t", **options)
    with pytest.raises(PruneError, match=r"another model, data or settings"):
        prune.teach("embedded", tmp_path / "t", resume=True, **{**options, "top_k": 4})
    (work / "targets/targets-00001.safetensors").write_bytes(b"damaged")
    record = prune.teach("embedded", tmp_path / "t", resume=True, **options)
    assert calls == [1, *range(2, len(record["shards"]))]
    assert not work.exists()
    ours = [load_file(tmp_path / "t" / shard["file"]) for shard in record["shards"]]
    (reference,) = [load_file(path) for path in targets.glob("*.safetensors")]
    for name, value in reference.items():
        assert len(ours) > 2
        torch.testing.assert_close(torch.cat([o[name].float() for o in ours]), value.float(), rtol=2e-3, atol=1e-4)


def test_targets_of_something_else_are_refused_by_field(cut, targets, data, tmp_path):
    given = {"targets": str(targets), "data": data, **SMALL}
    other = tmp_path / "other.jsonl"
    other.write_text('{"text": "a dog ran"}\n{"text": "a cat sat on"}\n')
    for wrong, message in (
        ({"max_length": 24}, "targets .*: max_length was 32 and is 24"),
        ({"data": {"text": str(other)}}, "targets .*: data text: 12 documents were taught, and these 2"),
        ({"data": {"texts": data["text"]}}, "targets .*: data: .*'texts' .did you mean 'text'"),
        ({"teacher": "embedded"}, "teacher and targets: give one"),
        ({"temperature": 2.0}, "temperature 2: targets hold one bucket"),
        ({"residual_weight": 1.0}, "residual_weight: needs"),
        ({"distill_weight": 0}, "targets: nothing is distilled"),
        ({"targets": str(tmp_path)}, "no targets.json there"),
    ):
        with pytest.raises(UsageError, match=message):
            prune.heal(cut, tmp_path / "out", **{**given, **wrong})
    assert [path.name for path in tmp_path.iterdir()] == ["other.jsonl"]


def test_another_model_tokenizer_or_a_damaged_file_is_refused(cut, targets, data, tmp_path):
    shutil.copytree(targets, tmp_path / "t")
    (shard,) = (tmp_path / "t").glob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:-1] + b"\xff")
    with pytest.raises(PruneError, match=r"targets-00000.safetensors: not as it was written"):
        prune.heal(cut, tmp_path / "out", targets=str(tmp_path / "t"), data=data, **SMALL)
    kept = Targets(targets)
    with pytest.raises(UsageError, match=r"tokenizer: embedded numbers its tokens otherwise"):
        kept.require({}, 32, Vocabulary())
    with pytest.raises(UsageError, match=r"vocabulary: embedded predicts .* and the pruned model 64"):
        kept.require_vocabulary(64)
    with pytest.raises(UsageError, match=r"model: layer 0 of the pruned model is none of embedded"):
        kept.kept_layers(tiny.teacher())
    record = tmp_path / "t/targets.json"
    record.write_text(record.read_text().replace('"top_k": 5', '"top_k": 6'))
    with pytest.raises(PruneError, match=r"targets.json: damaged"):
        Targets(tmp_path / "t")
    assert not (tmp_path / "out").exists()


class Vocabulary:
    def get_vocab(self):
        return {"a": 0}


def test_rewritten_layers_are_recognised_by_what_is_left(tmp_path):
    original = tiny.teacher()
    kept = taught(original, {"general": tiny.domain()}, tmp_path, top_k=4)
    pruned = tiny.student(copy.deepcopy(original))
    with torch.no_grad():
        pruned.model.layers[1].mlp.down_proj.weight += 0.1
    assert kept.kept_layers(pruned) == tiny.KEPT


def test_a_loaded_model_teaches_as_its_checkpoint_does(targets, data, demo_model, tmp_path):
    from transformers import AutoTokenizer

    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(demo_model).float(),
        AutoTokenizer.from_pretrained(demo_model),
    )
    prune.teach(model, tmp_path / "t", data=data, tokenizer=tokenizer, top_k=5, max_length=32)
    (ours,), (theirs,) = ([load_file(p) for p in place.glob("*.safetensors")] for place in (tmp_path / "t", targets))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    ids = {"ids": [{"input_ids": [5, 6, 7, 8]}]}
    record = prune.teach(model, tmp_path / "v", data=ids, top_k=5, max_length=32)  # no tokenizer is needed
    assert (record["tokens"], record["tokenizer_sha256"]) == (3, None)
    with pytest.raises(UsageError, match="top_k 100000: the model predicts"):
        prune.teach(model, tmp_path / "u", data=data, tokenizer=tokenizer, top_k=100_000)
    found = prune.teach(demo_model, tmp_path / "u", data=data, top_k=5, max_length=32, dry_run=True)
    assert found["tokens"] == Targets(targets).record["tokens"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t", "v"]


def test_shards_are_whole_documents():
    assert shard_bounds([3, 3, 3, 10, 1], 6) == [(0, 2), (2, 4), (4, 5)]
    assert shard_bounds([3, 3], 6) == [(0, 2)]
    assert shard_bounds([], 6) == []


@pytest.fixture(scope="module")
def in_shards(tmp_path_factory):
    """Targets of a model with QK-norm, in several files, and what they were made of."""
    folder = tmp_path_factory.mktemp("shards")
    build("qwen3").save_pretrained(folder / "model", max_shard_size="30KB")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(MODEL / name, folder / "model")
    rows = {
        name: [{"input_ids": list(d.input_ids), "answer_start": d.answer_start} for d in domain.documents]
        for name, domain in domains().items()
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teaching, "SHARD_ROWS", 40)
        record = prune.teach(str(folder / "model"), folder / "targets", data=rows, top_k=5, max_length=32)
    assert len(record["shards"]) > 1
    return folder / "model", rows, folder / "targets"


@pytest.mark.parametrize("way", [{"stream": True, "stream_memory": 0}, {"device_map": "auto", "max_memory": ONE_LAYER}])
def test_a_model_larger_than_memory_teaches_the_same(in_shards, tmp_path, monkeypatch, way):
    model, rows, plain = in_shards
    monkeypatch.setattr(teaching, "SHARD_ROWS", 40)
    record = prune.teach(str(model), tmp_path / "targets", data=rows, top_k=5, max_length=32, **way)
    expected = Targets(plain).record
    assert record["layers"] == expected["layers"]
    assert record["model_sha256"] == expected["model_sha256"]
    assert [s["file"] for s in record["shards"]] == [s["file"] for s in expected["shards"]]
    for shard in expected["shards"]:
        ours, theirs = (load_file(folder / shard["file"]) for folder in (tmp_path / "targets", plain))
        assert torch.equal(ours["tokens"], theirs["tokens"])
        for name in ("log_probs", "log_rest", "entropy"):
            torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=1e-4)
    if "stream" in way:
        files = StreamedModel(str(model))
        layers = files.checkpoint_bytes - files.bytes_read
        marking = 1  # the layers' marks are read at the end
        assert record["bytes_read"] == files.bytes_read + layers * (len(record["shards"]) + marking)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["targets"]


def taught_in(rank, directory):
    rows = json.loads((directory / "rows.json").read_text())
    teaching.SHARD_ROWS = 40
    prune.teach(str(directory / "model"), directory / "targets", data=rows, top_k=5, max_length=32)


def test_two_processes_share_the_files_and_write_the_same(in_shards, tmp_path):
    model, rows, plain = in_shards
    shutil.copytree(model, tmp_path / "model")
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    assert launched(taught_in, tmp_path) == [0, 0]
    for shard in Targets(plain).record["shards"]:
        assert (tmp_path / "targets" / shard["file"]).read_bytes() == (plain / shard["file"]).read_bytes()
    assert Targets(tmp_path / "targets").record["layers"] == Targets(plain).record["layers"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"stream": True, "device_map": "auto"}, "stream and device_map exclude each other"),
        ({"max_memory": {"cpu": "1GiB"}}, "max_memory goes with device_map"),
        ({"backend": "vllm", "stream": True}, "stream: is of an original in this process"),
        ({"backend": "vllm", "top_k": 0}, "top_k 0: .*vllm tells likely tokens only"),
    ],
)
def test_ways_that_exclude_each_other_are_refused_before_anything_is_read(own_python, data, tmp_path, flags, message):
    with pytest.raises(UsageError, match=message):
        prune.teach("embedded", tmp_path / "targets", data=data, max_length=32, **flags)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def own_python(monkeypatch):
    """The worker for transformers, run by the Python of these tests under the name of vLLM."""
    monkeypatch.setattr(evals.worker, "installed", lambda name: True)
    monkeypatch.setattr(evals.worker, "python_of", lambda name: Path(sys.executable))
    monkeypatch.setitem(evals.worker.RUNTIMES, "vllm", "transformers")


def check_served(place, targets, tolerance):
    """The targets of another runtime beside those of this process."""
    ours, theirs = Targets(place).record, Targets(targets).record
    assert ours["answered_by"].startswith("vllm ")
    assert ours["layers"] == theirs["layers"]
    assert ours["mass"] == pytest.approx(theirs["mass"], abs=1e-3)
    assert ours["entropy"] < theirs["entropy"]
    ours, theirs = (load_file(p / r["shards"][0]["file"]) for p, r in ((place, ours), (targets, theirs)))
    for name in ("log_probs", "log_rest"):  # values, not ids: of two equally likely tokens either comes first
        torch.testing.assert_close(ours[name].float().exp(), theirs[name].float().exp(), rtol=1e-2, atol=tolerance)


def test_another_runtime_teaches_the_same_likely_tokens(own_python, cut, targets, data, tmp_path):
    place = tmp_path / "targets"
    prune.teach("embedded", place, data=data, top_k=5, max_length=32, backend="vllm")
    check_served(place, targets, 1e-3)
    healed = prune.heal(cut, tmp_path / "healed", targets=place, data=data, distill_weight=1.0, **SMALL)
    plain = prune.heal(cut, tmp_path / "plain", targets=targets, data=data, distill_weight=1.0, **SMALL)
    assert healed.held_out_after == pytest.approx(plain.held_out_after, abs=1e-3)
    with pytest.raises(UsageError, match=r"entropy_weight 1: vllm .* tells likely tokens only; teach with backend hf"):
        prune.heal(cut, tmp_path / "no", targets=place, data=data, distill_weight=0, entropy_weight=1, **SMALL)


@pytest.mark.runtime
def test_vllm_teaches_as_transformers(targets, data, tmp_path):
    if not installed("vllm"):
        pytest.skip("vllm: not installed; scripts/runtime vllm")
    place = tmp_path / "targets"
    limits = {"max_model_len": 64}
    prune.teach("embedded", place, data=data, top_k=5, max_length=32, backend="vllm", model_args=limits)
    check_served(place, targets, 2e-3)


def test_the_entropy_of_likely_tokens_is_that_of_their_buckets():
    q = torch.randn(3, 7, generator=torch.Generator().manual_seed(0)).double().softmax(-1)  # [N, V]
    values, tokens = q.topk(2)
    found = of_likeliest(tokens, values.log())
    rest = 1 - values.sum(-1)
    expected = -(values * values.log()).sum(-1) - rest * rest.log()
    torch.testing.assert_close(found.entropy.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.log_rest.double(), rest.log(), rtol=1e-5, atol=1e-6)
    assert (expected < -(q * q.log()).sum(-1)).all()


def test_a_runtime_that_cuts_documents_short_is_refused():
    class Short:
        runtime, version, max_length = "vllm", "1", 4

        def predict(self, rows, top_k):
            return [([[1] * top_k], [[-1.0] * top_k]) for _ in rows]

    teacher = ServedModel(Short(), "float32", 10, None).teacher(TeachSettings(top_k=2))
    with pytest.raises(PruneError, match="told 1 of 3 positions of a document of 4 tokens; raise its context of 4"):
        list(teacher([Document((1, 2, 3, 4))]))
