"""A draft made of the original's layers: entered behind its trunk, trained, measured, and written as a checkpoint."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

import prune
import prune.drafting.training
from prune.drafting.candidates import Candidate, best, choose_layers, first_and_last
from prune.drafting.card import write_card
from prune.drafting.network import Network, build
from prune.drafting.settings import DraftSettings
from prune.drafting.states import Row, record_states
from prune.drafting.training import Schedule, agreement, train
from prune.embedded import MODEL
from prune.errors import PruneError, UsageError
from prune.model.loading import load_model

PROMPTS = [{"prompt": f"Question: What is {a} plus {b}?\nAnswer:"} for a in (11, 25, 38, 47) for b in (12, 23, 56)]


@pytest.fixture(scope="module")
def original():
    return load_model(str(MODEL))


def rows(count: int = 6) -> list[Row]:
    drawn = torch.Generator().manual_seed(3)
    lengths = [5 + i for i in range(count)]
    return [Row("toy", tuple(torch.randint(2, 2048, (n,), generator=drawn).tolist()), 2) for n in lengths]


def naive(model, draft, row: Row) -> tuple[int, float]:
    """Tokens that both find likeliest, and Σ min(p, q), from whole passes over the row."""
    ids = torch.tensor([row.input_ids])
    with torch.no_grad():
        p, q = (m(ids).logits[0, row.answer_start - 1 : -1].double().softmax(-1) for m in (model, draft))
    return int((p.argmax(-1) == q.argmax(-1)).sum()), float(torch.minimum(p, q).sum())


def test_agreement_on_kept_streams_is_that_of_whole_passes(original, tmp_path):
    draft = build(original, [0, 1, 2, 14, 15], train_layers=2, train_norm=True)
    network, documents = Network(original), rows()
    states = record_states(network, documents, [draft.trunk], tmp_path / "s", identity="x", tokens=16)
    for found, row in zip(agreement(network, draft, states, 16), documents, strict=True):
        same, overlap = naive(original, draft.model, row)
        assert found.asked == len(row.input_ids) - row.answer_start
        assert found.greedy == same
        assert found.overlap == pytest.approx(overlap, abs=1e-4)


def test_training_moves_only_the_drafts_own_layers_and_lowers_the_loss(original, tmp_path):
    before = {name: p.detach().clone() for name, p in original.named_parameters()}
    draft = build(original, [0, 1, 15], train_layers=1, train_norm=True)
    assert draft.trunk == 2
    network = Network(original)
    states = record_states(network, rows(), [2], tmp_path / "s", identity="x", tokens=64)
    losses = train(network, draft, states, Schedule(30, 2e-3, 64, 0, 10), tmp_path / "t", "x")
    assert losses[-1] < 0.8 * losses[0]
    assert all(torch.equal(p, before[name]) for name, p in original.named_parameters())
    assert {n.split(".layers.")[-1].split(".")[0] for n in draft.trained} == {"2", "model"}


def test_a_killed_training_goes_on_to_the_same_weights(original, tmp_path, monkeypatch):
    network = Network(original)
    states = record_states(network, rows(), [2], tmp_path / "s", identity="x", tokens=32)
    whole = build(original, [0, 1, 15], train_layers=1, train_norm=True)
    schedule = Schedule(12, 1e-3, 32, 0, 4)
    expected = train(network, whole, states, schedule, tmp_path / "whole", "x")

    cut_off = build(original, [0, 1, 15], train_layers=1, train_norm=True)
    step, calls = prune.drafting.training._step, []

    def killed(*arguments):
        calls.append(1)
        if len(calls) > 6:
            raise KeyboardInterrupt
        return step(*arguments)

    monkeypatch.setattr(prune.drafting.training, "_step", killed)
    with pytest.raises(KeyboardInterrupt):
        train(network, cut_off, states, schedule, tmp_path / "killed", "x")
    monkeypatch.setattr(prune.drafting.training, "_step", step)
    again = build(original, [0, 1, 15], train_layers=1, train_norm=True)
    losses = train(network, again, states, schedule, tmp_path / "killed", "x")
    assert losses == pytest.approx(expected)
    for name, parameter in again.parameters.items():
        assert torch.allclose(parameter, whole.parameters[name], atol=1e-6), name


def test_candidates_are_the_first_layers_and_the_last():
    tail = [14, 15]
    assert choose_layers(16, DraftSettings()) == [[0, 15], [0, 1, *tail], [0, 1, 2, *tail], [0, 1, 2, 3, 4, *tail]]
    assert first_and_last(5, 16) == [0, 1, 2, 14, 15]
    assert first_and_last(2, 16) == [0, 15]
    assert choose_layers(16, DraftSettings(keep_layers="0-2,14,15")) == [[0, 1, 2, 14, 15]]


def test_all_layers_are_a_draft_where_its_file_rounds_them():
    served = {"runtime": "llama.cpp"}
    assert choose_layers(4, DraftSettings(num_layers=[4], **served)) == [[0, 1, 2, 3]]
    assert choose_layers(4, DraftSettings(keep_layers="0-3", **served)) == [[0, 1, 2, 3]]
    with pytest.raises(UsageError, match="no shallower than the original's 4"):
        choose_layers(4, DraftSettings(num_layers=[5], **served))


def test_a_draft_that_is_not_trained_is_the_layers_as_they_were(tmp_path):
    output = tmp_path / "pair"
    options = {"num_prompts": 2, "max_new_tokens": 6, "keep_layers": "0,1,15", "num_train_epochs": 0, "speedup": 1.01}
    prune.draft("embedded", output, data={"math": PROMPTS}, **options)
    facts = json.loads((output / "draft.json").read_text())
    assert facts["trained_layers"] == []
    assert facts["training"]["steps"] == 0
    card = (output / "README.md").read_text()
    assert "Layers 0–1, 15 of the original, as they are there: nothing was trained." in card
    whole = facts | {
        "keep": list(range(16)),
        "gguf": "draft-q8_0.gguf",
        "config": json.loads((output / "config.json").read_text()),
    }
    write_card(tmp_path, whole)
    card = (tmp_path / "README.md").read_text()
    assert "by the fewer bits of `draft-q8_0.gguf` alone" in card
    assert "much worse" not in card
    drafted, original = (
        AutoModelForCausalLM.from_pretrained(path, dtype="float32").state_dict() for path in (output, MODEL)
    )
    moved = {"model.layers.2.": "model.layers.15."}
    for name, tensor in drafted.items():
        for new, old in moved.items():
            name = name.replace(new, old)
        assert torch.equal(tensor, original[name]), name


def test_a_candidate_whose_ceiling_is_too_low_is_skipped_with_that_sentence():
    from prune.wording.text import english

    dear = Candidate([0, 15], 0.8, 0.7, 0.9, wanted=1.3)
    assert dear.skipped
    assert "no acceptance gives more than 1.25×" in english(dear.outcome)
    cheap = Candidate([0, 15], 0.2, 0.2, 0.2, wanted=1.3)
    assert not cheap.skipped


def test_the_best_candidate_has_the_largest_expected_speed_up():
    found = [Candidate([0, 15], cost, cost, cost, 1.3) for cost in (0.2, 0.3)]
    found[0].measured({"a": 0.5, "b": 0.5}, None)
    found[1].measured({"a": 0.9, "b": 0.9}, None)
    assert best(found) == 1
    assert found[1].num_assistant_tokens > found[0].num_assistant_tokens


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"keep_layers": "1,2"}, "needs layer 0"),
        ({"keep_layers": "0,99"}, "layer 99 does not exist"),
        ({"num_layers": [1]}, "two layers at least"),
        ({"num_layers": [16]}, "no shallower than the original's 16"),
    ],
)
def test_layers_that_make_no_draft_are_refused(options, said):
    with pytest.raises(UsageError, match=said):
        choose_layers(16, DraftSettings(**options))


def test_a_pair_is_a_stock_checkpoint_with_card_and_figures(tmp_path):
    output = tmp_path / "pair"
    options = {"num_prompts": 3, "max_new_tokens": 8, "keep_layers": "0,15", "num_train_epochs": 1.0, "speedup": 1.01}
    pair = prune.draft("embedded", output, data={"math": PROMPTS}, **options)
    facts = json.loads((output / "draft.json").read_text())
    assert facts["keep"] == [0, 15]
    assert facts["domains"]["math"]["identical"] == facts["domains"]["math"]["prompts"] == 3
    assert facts["domains"]["math"]["speedup_lo"] <= facts["domains"]["math"]["speedup"]
    assert facts["memory"]["pair_bytes"] > facts["memory"]["original"]["bytes"]
    loaded = AutoModelForCausalLM.from_pretrained(output, dtype="float32")
    ids = torch.tensor([[5, 9, 300, 7]])
    stored = {n: p.to(torch.bfloat16).float() for n, p in pair.model.named_parameters()}
    assert all(torch.equal(p, stored[n]) for n, p in loaded.named_parameters())
    assert torch.isfinite(loaded(ids).logits).all()
    card = (output / "README.md").read_text()
    for line in (
        "layers 15 were trained",
        "much worse",
        "assistant_model=draft",
        '"method": "draft_model"',
        "--spec-type draft-simple",
        "not run",
    ):
        assert line in card
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pair"]


def test_a_pair_that_cannot_pay_is_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(PruneError, match="no acceptance gives more than"):
        prune.draft("embedded", tmp_path / "pair", data={"math": PROMPTS}, num_layers=[15], speedup=1.9)
    assert not (tmp_path / "pair").exists()


def test_a_model_that_leaves_no_room_for_a_draft_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("evals.fitted.free_memory", lambda _: 10**6)
    with pytest.raises(PruneError, match="original and draft take"):
        prune.draft("embedded", tmp_path / "pair", data={"math": PROMPTS})
    assert not (tmp_path / "pair").exists()


def test_prompts_longer_than_the_context_are_refused(tmp_path):
    with pytest.raises(PruneError, match="no prompt can be used"):
        prune.draft("embedded", tmp_path / "pair", data={"math": PROMPTS}, max_new_tokens=511)
    assert not list(tmp_path.iterdir())


def test_one_prompt_is_too_few(tmp_path):
    with pytest.raises(PruneError, match="one prompt is too few"):
        prune.draft("embedded", tmp_path / "pair", data={"math": PROMPTS[:1]}, max_new_tokens=4)
    assert not (tmp_path / "pair").exists()
