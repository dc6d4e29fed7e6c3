"""Criteria against a naive reading of each formula, on a tiny random model."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from prune.analysis import analyze
from prune.data.domains import Document, Domain
from prune.errors import PruneError, UsageError
from prune.planning.context import Context
from prune.planning.planner import make_plan
from prune.planning.registry import get_criterion
from tests.planning.small import LAYERS, build, domains, log_probabilities, naive_cost, shortened

FULL = tuple(range(LAYERS))


def without(*drop):
    return tuple(layer for layer in FULL if layer not in drop)


@pytest.fixture(scope="module")
def model():
    return build()


@pytest.fixture(scope="module")
def analysis(model):
    return analyze(model, domains(), bootstrap=10)


@pytest.fixture
def context(model):
    return Context("made", LAYERS, "any", model=model, domains=domains())


@torch.no_grad()
def streams(model, document):
    """L + 1 streams [T, d] float64; the last one before the final norm."""
    seen = []
    hook = model.model.norm.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    states = model.model(torch.tensor([document.input_ids]), output_hidden_states=True).hidden_states
    hook.remove()
    return [state[0].double() for state in (*states[:-1], seen[0])]


def equal_mix(of_documents):
    """The mean over domains of a figure of each domain's documents."""
    return np.mean([of_documents(domain.documents) for domain in domains().values()], axis=0)


def test_block_influence_and_relative_contribution_equal_their_formulas(model, analysis):
    def token_means(documents):
        influence, relative, count = np.zeros(LAYERS), np.zeros(LAYERS), 0
        for document in documents:
            states = streams(model, document)
            count += len(document.input_ids)
            for layer in range(LAYERS):
                before, after = states[layer], states[layer + 1]
                influence[layer] += (1 - torch.cosine_similarity(before, after, dim=-1)).sum().item()
                relative[layer] += ((after - before).norm(dim=-1) / before.norm(dim=-1)).sum().item()
        return influence / count, relative / count

    influence, relative = equal_mix(token_means)
    context = Context("made", LAYERS, "block_influence", analysis)
    scores = get_criterion("block_influence").layer_scores(context, 1)
    assert scores == pytest.approx(influence.tolist(), abs=1e-5)
    scores = get_criterion("relative_contribution").layer_scores(context, 1)
    assert scores == pytest.approx(relative.tolist(), rel=1e-4)


def test_the_angle_of_a_removed_run_is_that_between_the_streams_around_it(model, analysis):
    def angle(first, last):
        def mean(documents):
            ends = [(s[first][-1], s[last][-1]) for s in (streams(model, document) for document in documents)]
            return np.mean([math.acos(torch.cosine_similarity(a, b, dim=-1).item()) / math.pi for a, b in ends])

        return float(equal_mix(mean))

    context = Context("made", LAYERS, "angular", analysis)
    keeps = [without(0, 1), without(2, 3, 4), without(6, 7), without(1, 4, 5)]
    expected = [angle(0, 2), angle(2, 5), angle(6, 8), angle(1, 2) + angle(4, 6)]
    assert get_criterion("angular").subset_costs(context, keeps) == pytest.approx(expected, abs=1e-5)


def test_contiguous_angular_considers_blocks_at_both_ends(analysis):
    plan = make_plan(source="made", analysis=analysis, criterion="angular", strategy="contiguous", num_layers=5)
    distance = np.mean([analysis.of_domain("angular_distance/last", name).astype(float) for name in domains()], axis=0)
    starts = [distance[start, start + 3] for start in range(LAYERS - 2)]
    start = int(np.argmin(starts))
    assert plan.drop == [start, start + 1, start + 2]
    assert plan.scores["cost"] == pytest.approx(min(starts))
    assert set(plan.scores["by_domain"]) == {"text", "sums"}


def test_kl_is_the_divergence_of_the_shortened_models_predictions(model, context, analysis):
    def divergence(drop):
        cut, means = shortened(model, drop), []
        for domain in domains().values():
            total, count = 0.0, 0
            for document in domain.documents:
                log_p, log_q = log_probabilities(model, document), log_probabilities(cut, document)
                for position in range(document.answer_start - 1, len(document.input_ids) - 1):
                    total += (log_p[position].exp() * (log_p[position] - log_q[position])).sum().item()
                    count += 1
            means.append(total / count)
        return float(np.mean(means))

    costs = get_criterion("kl").subset_costs(context, [without(2), without(0, 5), without(3, 4, 7)])
    assert costs == pytest.approx([divergence([2]), divergence([0, 5]), divergence([3, 4, 7])], abs=1e-5)
    # Without documents the analysis gives the same figures for single layers, under the same equal weights.
    alone = get_criterion("kl").layer_scores(Context("made", LAYERS, "kl", analysis), 1)
    assert alone == pytest.approx(get_criterion("kl").layer_scores(context, 1), rel=1e-3)


def test_dnll_counts_completions_and_answer_nll_nothing_else(model, context):
    drop = [1, 5]
    weights = {"text": 0.5, "sums": 0.5}
    (cost,) = get_criterion("dnll").subset_costs(context, [without(*drop)])
    assert cost == pytest.approx(naive_cost(model, drop, weights), abs=1e-5)
    (cost,) = get_criterion("answer_nll").subset_costs(context, [without(*drop)])
    assert cost == pytest.approx(naive_cost(model, drop, {"sums": 1.0}), abs=1e-5)


def test_answer_nll_needs_a_prompt(model):
    plain = {"text": domains()["text"]}
    with pytest.raises(UsageError, match="prompt \\+ completion"):
        make_plan(source="made", model=model, domains=plain, criterion="answer_nll", num_layers=6)
    with pytest.raises(UsageError, match="no weight on a domain with prompts"):
        make_plan(
            source="made", model=model, domains=domains(), criterion="answer_nll", num_layers=6,
            domain_weights={"text": 1.0},
        )  # fmt: skip


def survivors(model, drop, documents) -> float:
    """The share of documents whose every answer token is the really shortened model's choice."""
    cut, right = shortened(model, drop), []
    for document in documents:
        choice = log_probabilities(cut, document).argmax(-1).tolist()
        places = range(document.answer_start, len(document.input_ids))
        right.append(all(choice[at - 1] == document.input_ids[at] for at in places))
    return float(np.mean(right))


@pytest.fixture(scope="module")
def answers(model):
    """Two domains of answers, the model's own and those of the model without two layers; and plain text."""
    generator = torch.Generator().manual_seed(6)

    def made(by, count):
        documents = []
        for number in range(count):
            ids = torch.randint(0, 96, (3 + number % 4,), generator=generator).tolist()
            start = len(ids)
            for _ in range(1 + number % 2):
                ids.append(int(by(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
            documents.append(Document(tuple(ids), answer_start=start))
        return tuple(documents)

    with torch.no_grad():
        own, other = made(model, 10), made(shortened(model, [2, 5]), 8)
    return {"text": domains()["text"], "own": Domain("own", own, "made", "o"), "cut": Domain("cut", other, "made", "c")}


def test_answer_accuracy_costs_the_share_of_answers_lost(model, answers):
    context = Context("made", LAYERS, "answer_accuracy", model=model, domains=answers)
    criterion = get_criterion("answer_accuracy")
    drops = [[2, 5], [0], [3], [1, 4, 6]]

    def expected(drop, weights):
        return sum(w * (1 - survivors(model, drop, answers[name].documents)) for name, w in weights.items())

    equal = {"own": 0.5, "cut": 0.5}
    costs = criterion.subset_costs(context, [without(*drop) for drop in drops])
    assert costs == pytest.approx([expected(drop, equal) for drop in drops])
    assert len(set(costs)) > 2
    assert survivors(model, [2, 5], answers["cut"].documents) == 1
    # Weights count among the domains that have answers; the analysis says the same of single layers.
    analysis = analyze(model, answers, measure=["dnll"], bootstrap=10)
    for weights, mix in ((None, equal), ({"text": 0.5, "own": 0.4, "cut": 0.1}, {"own": 0.8, "cut": 0.2})):
        read = Context("made", LAYERS, "answer_accuracy", analysis, domain_weights=weights)
        singles = criterion.layer_scores(read, 1)
        assert singles == pytest.approx([expected([layer], mix) for layer in range(LAYERS)], abs=1e-6)
        context.domain_weights = weights
        assert criterion.layer_scores(context, 1) == pytest.approx(singles, abs=1e-6)


def test_answer_accuracy_plans_one_shot_from_the_analysis_and_greedily_on_documents(model, answers):
    analysis = analyze(model, answers, measure=["dnll"], bootstrap=10)
    options = {"source": "made", "criterion": "answer_accuracy", "num_layers": 6}
    one = make_plan(analysis=analysis, strategy="one_shot", **options)
    equal = [np.mean([survivors(model, [layer], answers[n].documents) for n in ("own", "cut")]) for layer in FULL]
    assert min(equal[layer] for layer in one.drop) >= max(equal[layer] for layer in one.keep)
    plan = make_plan(model=model, domains=answers, strategy="greedy", **options)
    lost = [1 - survivors(model, plan.drop, answers[name].documents) for name in ("own", "cut")]
    assert plan.scores["cost"] == pytest.approx(np.mean(lost))
    assert plan.scores["dnll"]["total"]["value"] is not None


def test_answer_accuracy_needs_an_answer(model, analysis):
    plain = {"text": domains()["text"]}
    with pytest.raises(UsageError, match="prompt \\+ completion"):
        make_plan(source="made", model=model, domains=plain, criterion="answer_accuracy", num_layers=6)
    with pytest.raises(UsageError, match="no weight on a domain that has output_effect/answer_accuracy: sums"):
        make_plan(
            source="made", analysis=analysis, criterion="answer_accuracy", strategy="one_shot", num_layers=6,
            domain_weights={"text": 1.0},
        )  # fmt: skip


def test_taylor_is_weight_times_gradient_of_the_mean_loss(model, context):
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    scores = get_criterion("taylor").layer_scores(context, 1)
    assert {name: p.requires_grad for name, p in model.named_parameters()} == before
    assert all(p.grad is None for p in model.parameters())
    loss = 0
    for domain in domains().values():
        sums, count = 0, 0
        for document in domain.documents:
            logp = model(torch.tensor([document.input_ids])).logits[0].log_softmax(-1)
            for position in range(document.answer_start, len(document.input_ids)):
                sums, count = sums - logp[position - 1, document.input_ids[position]], count + 1
        loss = loss + 0.5 * sums / count
    matrices = [[p for p in layer.parameters() if p.dim() == 2] for layer in model.model.layers]
    flat = [p for group in matrices for p in group]
    products = iter((p * g).abs().sum().item() for p, g in zip(flat, torch.autograd.grad(loss, flat), strict=True))
    expected = [sum(next(products) for _ in group) for group in matrices]
    assert scores == pytest.approx(expected, rel=1e-4)


def test_magnitude_is_the_sum_of_absolute_matrix_weights(model, context):
    expected = [sum(p.abs().sum().item() for p in layer.parameters() if p.dim() == 2) for layer in model.model.layers]
    assert get_criterion("magnitude").layer_scores(context, 1) == pytest.approx(expected, rel=1e-5)


def test_baselines_take_the_last_evenly_spread_and_seeded_random_layers(model):
    options = {"source": "made", "model": model, "strategy": "one_shot"}
    assert make_plan(criterion="last_n", num_layers=5, **options).order == [7, 6, 5]
    assert make_plan(criterion="every_kth", num_layers=4, **options).drop == [1, 3, 5, 7]
    drawn = {tuple(make_plan(criterion="random", num_layers=4, seed=seed, **options).drop) for seed in range(6)}
    assert len(drawn) > 1
    again = [make_plan(criterion="random", num_layers=4, seed=3, **options).drop for _ in range(2)]
    assert again[0] == again[1]


def test_domain_weights_decide_whose_cost_counts(model, context):
    for name in ("text", "sums"):
        plan = make_plan(
            source="made", model=model, domains=domains(), strategy="one_shot", num_layers=7, domain_weights={name: 2.0}
        )
        costs = [naive_cost(model, [layer], {name: 1.0}) for layer in FULL]
        assert plan.drop == [int(np.argmin(costs))]
        assert plan.scores["cost"] == pytest.approx(min(costs), abs=1e-5)
    with pytest.raises(UsageError, match=r"unknown domain 'sum'.*did you mean 'sums'"):
        make_plan(source="made", model=model, domains=domains(), num_layers=6, domain_weights={"sum": 1.0})


def test_a_criterion_that_reads_the_analysis_never_asks_for_the_model(analysis):
    def forbidden():
        raise AssertionError("the model or the documents were fetched")

    for criterion, strategy in (("block_influence", "greedy"), ("angular", "beam"), ("dnll", "one_shot")):
        plan = make_plan(
            source="made", analysis=analysis, load_model=forbidden, load_domains=forbidden, criterion=criterion,
            strategy=strategy, num_layers=5,
        )  # fmt: skip
        assert len(plan.drop) == 3
    assert make_plan(source="made", analysis=analysis, criterion="block_influence", num_layers=5).strategy == "one_shot"


def test_one_shot_from_the_analysis_is_one_shot_on_the_documents(model, analysis, context):
    """No weights are equal weights, whichever of the two the scores come from."""
    for weights in (None, {"text": 0.2, "sums": 0.8}):
        context.domain_weights = weights
        alone = get_criterion("dnll").layer_scores(Context("made", LAYERS, "dnll", analysis, domain_weights=weights), 1)
        assert alone == pytest.approx(get_criterion("dnll").layer_scores(context, 1), abs=1e-4)


def test_what_was_not_measured_is_named(model, analysis):
    part = analyze(model, domains(), measure=("contributions",), bootstrap=10)
    with pytest.raises(PruneError, match="angular_distance/last"):
        make_plan(source="made", analysis=part, criterion="angular", num_layers=5)
    with pytest.raises(UsageError, match="give data NAME=PATH"):
        make_plan(source="made", model=model, num_layers=5)
