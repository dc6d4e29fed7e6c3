"""Speculative decoding: the formula, the count of kept tokens, and outputs that are the original's own."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import evals.speculative
from evals.draft_trials import TrialLog
from evals.errors import EvalUsageError
from evals.speculation import expected_speedup
from evals.speculative import _Tally, try_as_draft


def tiny(layers: int, seed: int = 0, vocab: int = 50) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab, hidden_size=32, intermediate_size=64, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=2, eos_token_id=None, bos_token_id=None, pad_token_id=0, initializer_range=0.4,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


PROMPTS = [[3, 7, 9], [11, 2, 5, 8, 21], [40], [1, 2, 3, 4, 5, 6]]


def test_expected_speedup_is_the_expected_tokens_over_the_expected_cost():
    alpha, gamma, cost = 0.8, 5, 0.3
    # Tokens of a pass: 1 + number kept; P(kept >= k) = alpha^k for k <= gamma.
    tokens = 1 + sum(alpha**k for k in range(1, gamma + 1))
    assert expected_speedup(alpha, gamma, cost) == pytest.approx(tokens / (gamma * cost + 1))
    assert expected_speedup(1.0, 4, 0.0) == 5
    assert expected_speedup(0.0, 4, 0.25) == 0.5
    with pytest.raises(EvalUsageError, match="out of range"):
        expected_speedup(1.2, 4, 0.1)


def test_a_model_as_its_own_draft_has_every_token_kept():
    model = tiny(3)
    found = try_as_draft(model, tiny(3), PROMPTS, max_new_tokens=21, num_assistant_tokens=4)
    assert found.lossless
    assert found.acceptance_rate == 1.0
    assert found.new_tokens == 21 * len(PROMPTS)
    assert found.tokens_per_pass == pytest.approx(21 / math.ceil(21 / 5))


def greedy_by_hand(model: LlamaForCausalLM, prompt: list[int], length: int) -> list[int]:
    """Token by token, each from a whole forward pass without a cache."""
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(length):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids


def test_another_draft_leaves_the_outputs_as_they_are(monkeypatch):
    outputs = []
    both = evals.speculative._plain_and_assisted

    def seen(original, draft, ids, length, *rest, **options):
        found = both(original, draft, ids, length, *rest, **options)
        if length == 16:  # not the warm-up
            outputs.append([tokens for tokens, _ in found])
        return found

    monkeypatch.setattr(evals.speculative, "_plain_and_assisted", seen)
    model = tiny(4)
    stranger = try_as_draft(model, tiny(2, seed=9), PROMPTS, max_new_tokens=16, num_assistant_tokens=3)
    assert stranger.lossless
    assert stranger.acceptance_rate < 0.5
    expected = [greedy_by_hand(model, prompt, 16) for prompt in PROMPTS]
    assert [plain for plain, _ in outputs] == expected
    assert [assisted for _, assisted in outputs] == expected


def test_an_output_that_differs_is_counted_and_placed(monkeypatch):
    """transformers gives what the original gives, so a wrong token is put in by hand: the third new one of prompt 1."""
    model, both = tiny(3), evals.speculative._plain_and_assisted

    def spoilt(original, draft, ids, *rest, **options):
        (plain, seconds), (helped, other) = both(original, draft, ids, *rest, **options)
        if ids[0].tolist() == PROMPTS[1] and len(helped) > len(PROMPTS[1]) + 2:
            helped = list(helped)
            helped[len(PROMPTS[1]) + 2] = (helped[len(PROMPTS[1]) + 2] + 1) % 50
        return (plain, seconds), (helped, other)

    monkeypatch.setattr(evals.speculative, "_plain_and_assisted", spoilt)
    found = try_as_draft(model, tiny(3), PROMPTS, max_new_tokens=8)
    assert not found.lossless
    assert found.identical == len(PROMPTS) - 1
    (mismatch,) = found.mismatches
    assert (mismatch.prompt, mismatch.position) == (1, 2)
    with torch.no_grad():
        best = model(torch.tensor([greedy_by_hand(model, PROMPTS[1], 2)])).logits[0, -1].topk(2).values
    assert mismatch.gap == pytest.approx(float(best[0] - best[1]), rel=1e-4)


def test_kept_tokens_are_those_a_by_hand_loop_keeps():
    model, draft, gamma, length = tiny(4), tiny(4), 4, 24
    with torch.no_grad():  # a draft that is right often, not always
        draft.model.layers[3].mlp.down_proj.weight.mul_(0.7)
    accepted = rejections = 0
    for prompt in PROMPTS:
        ids = list(prompt)
        while len(ids) < len(prompt) + length:
            room = min(gamma, len(prompt) + length - len(ids) - 1)
            guess = list(ids)
            for _ in range(room):
                guess.append(int(draft(torch.tensor([guess])).logits[0, -1].argmax()))
            own = model(torch.tensor([guess])).logits[0].argmax(-1).tolist()
            kept = 0
            while kept < room and guess[len(ids) + kept] == own[len(ids) + kept - 1]:
                kept += 1
            ids += [*guess[len(ids) : len(ids) + kept], own[len(ids) + kept - 1]]
            accepted += kept
            rejections += kept < room and len(ids) < len(prompt) + length
    found = try_as_draft(model, draft, PROMPTS, max_new_tokens=length, num_assistant_tokens=gamma)
    assert 0.2 < accepted / (accepted + rejections) < 1
    assert found.acceptance_rate == pytest.approx(accepted / (accepted + rejections))


def test_a_text_that_ends_is_no_rejection():
    tally = _Tally()
    tally.close([(3, 4), (8, 4)], final_length=10)  # first pass keeps 4; the second ends the text after 1 kept
    assert (tally.accepted, tally.rejections, tally.passes) == (5, 0, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompts": []}, "needs prompts"),
        ({"max_new_tokens": 1}, "at least 2"),
        ({"draft": tiny(2, vocab=51)}, "vocabularies of 50 and 51"),
        ({"max_new_tokens": 5000}, "exceed a context"),
    ],
)
def test_what_cannot_be_compared_is_refused(change, message):
    options = {"original": tiny(2), "draft": tiny(2), "prompts": PROMPTS, "max_new_tokens": 8, **change}
    with pytest.raises(EvalUsageError, match=message):
        try_as_draft(**options)


def test_past_the_end_of_text_answers_go_on_and_the_models_settings_come_back():
    model, draft = tiny(3), tiny(3)
    ends = greedy_by_hand(model, PROMPTS[0], 6)[-1]  # what the original says ends every answer soon
    for each in (model, draft):
        each.generation_config.eos_token_id = ends
    short = try_as_draft(model, draft, PROMPTS[:1], max_new_tokens=21, num_assistant_tokens=4)
    assert short.new_tokens <= 6
    whole = try_as_draft(model, draft, PROMPTS[:1], max_new_tokens=21, num_assistant_tokens=4, ignore_eos=True)
    assert (whole.new_tokens, whole.median_new_tokens, whole.lossless) == (21, 21, True)
    assert model.generation_config.eos_token_id == draft.generation_config.eos_token_id == ends


def test_a_killed_measurement_goes_on_and_another_one_does_not_take_its_trials(tmp_path, monkeypatch):
    model, draft, kept = tiny(4), tiny(2, seed=9), tmp_path / "trials.jsonl"
    options = {"max_new_tokens": 9, "num_assistant_tokens": 3}
    whole = try_as_draft(model, draft, PROMPTS, **options)
    one, calls = evals.speculative._trial, []

    def killed(*arguments, **rest):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return one(*arguments, **rest)

    monkeypatch.setattr(evals.speculative, "_trial", killed)
    with pytest.raises(KeyboardInterrupt):
        try_as_draft(model, draft, PROMPTS, log=TrialLog(kept, "this"), **options)
    with kept.open("a") as handle:
        handle.write('{"half a line')
    log = TrialLog(kept, "this")
    assert len(log.trials) == 2
    found = try_as_draft(model, draft, PROMPTS, log=log, **options)
    assert len(calls) == 5
    assert (found.new_tokens, found.acceptance_rate) == (whole.new_tokens, whole.acceptance_rate)
    assert len(TrialLog(kept, "this").trials) == len(PROMPTS)
    assert not TrialLog(kept, "other").trials
