"""The depth map against ordinary least squares, on streams whose relation is known, and on real models."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from prune.analysis.depth_map import TEST, TRAIN, VALIDATION, depth_map, fit
from prune.data.domains import Document, Domain
from prune.errors import PruneError


def parts(count: int) -> np.ndarray:
    return np.array([TRAIN, TRAIN, TRAIN, VALIDATION, TEST])[np.arange(count) % 5]


def test_error_equals_that_of_least_squares_when_tokens_abound():
    random = np.random.default_rng(0)
    a = random.standard_normal((4000, 3, 6))
    b = np.stack([a[:, d] @ random.standard_normal((6, 4)) + random.standard_normal((4000, 4)) for d in (2, 0)], 1)
    part = parts(4000)
    found = fit(a, b, part)
    for i in range(3):
        for j in range(2):
            x = np.c_[a[part == TRAIN, i], np.ones((part == TRAIN).sum())]
            weights = np.linalg.lstsq(x, b[part == TRAIN, j], rcond=None)[0]
            left = b[part == TEST, j] - np.c_[a[part == TEST, i], np.ones((part == TEST).sum())] @ weights
            total = b[part == TEST, j] - b[part == TRAIN, j].mean(0)
            expected = (left**2).sum() / (total**2).sum()
            # Where there is nothing to predict the ridge does a little better than least squares, never worse.
            assert expected - 4e-3 < found.error[i, j] < expected * 1.001
    assert found.best.tolist() == [2, 0]


def test_a_stretched_model_lies_on_the_diagonal_and_a_shuffled_one_does_not():
    random = np.random.default_rng(1)
    a = random.standard_normal((1500, 5, 8)).cumsum(1)
    part = parts(1500)
    stretched = fit(a, a[:, [0, 0, 1, 1, 2, 2, 3, 3, 4]], part)
    assert stretched.offset <= 1 / 8
    assert stretched.error.min(0).max() < 1e-6
    assert fit(a, a[:, [4, 3, 2, 1, 0]], part).offset > 0.4


def model(layers: int, width: int, seed: int, vocab: int = 64) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=2,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def domains() -> dict[str, Domain]:
    random = np.random.default_rng(2)
    documents = tuple(Document(tuple(random.integers(0, 64, n).tolist())) for n in random.integers(20, 40, 30))
    return {"general": Domain("general", documents, "made", "0")}


def test_a_model_maps_onto_itself_without_error(domains):
    same = model(4, 16, 0)
    found = depth_map(same, same, domains, batch_size=7)
    assert found.error.shape == (5, 5)
    assert np.diag(found.error).max() < 1e-4
    assert found.best.tolist() == [0, 1, 2, 3, 4]
    assert found.offset == 0
    assert sum(found.tokens) == sum(len(d.input_ids) for d in domains["general"].documents)


def test_batching_changes_nothing_and_other_shapes_and_projections_work(domains):
    a, b = model(3, 16, 0), model(5, 32, 1)
    one = depth_map(a, b, domains, batch_size=1, features=24)
    many = depth_map(a, b, domains, batch_size=8, features=24)
    np.testing.assert_allclose(one.error, many.error, atol=1e-4)
    assert one.features == (16, 24)
    assert one.error.shape == (4, 6)


def test_another_vocabulary_or_too_few_documents_are_refused(domains):
    a = model(3, 16, 0)
    with pytest.raises(PruneError, match="one tokenizer"):
        depth_map(a, model(3, 16, 0, vocab=32), domains)
    few = {"x": Domain("x", domains["general"].documents[:4], "made", "0")}
    with pytest.raises(PruneError, match="6 documents"):
        depth_map(a, a, few)
