"""Scoring on a sample of the predictions: unbiased, the same for every candidate; the head runs as often as said."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from prune.data.domains import Document, Domain
from prune.model.anatomy import find_anatomy
from prune.planning.evaluator import Evaluator
from prune.planning.planner import make_plan
from prune.planning.positions import FEWEST, HEAD_OVER_LAYERS, positions, usual_share
from tests.planning.small import LAYERS, SHAPE, build, domains, log_probabilities, shortened

LONG = 200
DROP = (2, 5)
KEEP = tuple(layer for layer in range(LAYERS) if layer not in DROP)


def long_documents(count: int = 4) -> Domain:
    rows = torch.randint(0, 96, (count, LONG), generator=torch.Generator().manual_seed(3)).tolist()
    return Domain(
        "text", tuple(Document(tuple(row), answer_start=1 + 4 * i) for i, row in enumerate(rows)), "made", "t"
    )


def naive_rises(model, domain: Domain) -> list[np.ndarray]:
    """For each document the rise of the NLL at every counted token, by full passes of a really shortened model."""
    cut, found = shortened(model, DROP), []
    for document in domain.documents:
        first, ids = document.answer_start, torch.tensor(document.input_ids)
        both = [
            log_probabilities(m, document)[first - 1 : -1].gather(-1, ids[first:, None])[:, 0] for m in (model, cut)
        ]
        found.append((both[0] - both[1]).numpy())
    return found


def wide(vocabulary: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**{**SHAPE, "vocab_size": vocabulary})).eval()


@pytest.mark.parametrize("batch_size", [1, 4])
def test_sums_are_those_of_the_sampled_predictions_scaled_up_in_any_batch(batch_size):
    model, domain = build(), long_documents()
    score = Evaluator(model, {"text": domain}, batch_size=batch_size, prediction_share=0.4).score(KEEP)
    for at, (document, rises) in enumerate(zip(domain.documents, naive_rises(model, domain), strict=True)):
        chosen = np.array(positions(document, 0.4)) - document.answer_start
        assert len(chosen) == max(FEWEST, round(0.4 * len(rises)))
        assert score.sums["text"][at] == pytest.approx(rises[chosen].mean() * len(rises), abs=1e-4)
        assert score.tokens["text"][at] == len(rises)  # documents weigh what they weigh without a sample


def test_the_mean_over_samples_is_the_figure_of_all_predictions():
    model, domain = build(), long_documents()
    rises = naive_rises(model, domain)
    truth = sum(map(np.sum, rises)) / sum(map(len, rises))
    drawn = [Evaluator(model, {"text": domain}, prediction_share=0.3, seed=s).score(KEEP).total for s in range(24)]
    assert abs(np.mean(drawn) - truth) < 4 * np.std(drawn) / np.sqrt(len(drawn))
    assert np.std(drawn) > 0


def test_a_model_is_read_whole_unless_its_head_outweighs_its_layers():
    assert usual_share(find_anatomy(build())) == 1
    model = wide(4096)
    head, layers = 4096 * 32, sum(p.numel() for p in model.model.layers.parameters())
    assert usual_share(find_anatomy(model)) == pytest.approx(HEAD_OVER_LAYERS * layers / head)


def test_the_head_runs_on_the_stated_share_of_the_predictions_and_the_plan_says_so():
    model, domain, rows = wide(4096), long_documents(), []
    model.lm_head.register_forward_hook(lambda module, args, output: rows.append(args[0].shape[:-1].numel()))
    counted = {}
    for share in (1.0, None):
        rows.clear()
        plan = make_plan(
            source="made", model=model, domains={"text": domain}, num_layers=6, strategy="one_shot",
            prediction_share=share,
        )  # fmt: skip
        counted[share] = sum(rows)
        stated = plan.data["text"].get("prediction_share")
        assert stated == (None if share else pytest.approx(usual_share(find_anatomy(model)), abs=1e-4))
    tokens = sum(LONG - document.answer_start for document in domain.documents)
    fewest = len(domain.documents) * FEWEST
    models = counted[1.0] // tokens  # candidates and the full model
    assert models > LAYERS
    assert counted[1.0] - counted[None] == models * (tokens - fewest)


def test_short_documents_and_whole_answers_are_read_in_full():
    model = build()
    whole, sampled = (Evaluator(model, domains(), prediction_share=share) for share in (1.0, 0.1))
    for name, sums in whole.score(KEEP).sums.items():  # of at most 17 tokens
        np.testing.assert_allclose(sampled.score(KEEP).sums[name], sums, atol=1e-6)
    assert sampled.answers_only().prediction_share == 1
