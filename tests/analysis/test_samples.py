"""Samples of tokens: bounded, the same in any order, and parts merge into the sample of the whole."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prune.analysis.samples import TokenSample, token_priority
from prune.analysis.width import depth_figures


def offered(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Tokens as (priority, group, values): one token a row of (document, position)."""
    return token_priority(rows[:, 0], rows[:, 1]), rows[:, 0], {"place": rows}


def fill(sample: TokenSample, rows: np.ndarray) -> TokenSample:
    priority, group, values = offered(rows)
    kept = sample.admits(priority)
    sample.add(priority[kept], group[kept], {name: value[kept] for name, value in values.items()}, len(rows))
    return sample


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.lists(st.integers(1, 12), min_size=1, max_size=12), st.randoms())
def test_any_order_and_any_split_give_the_same_sample(capacity: int, lengths: list[int], random) -> None:
    rows = [np.array([(d, p) for p in range(n)]) for d, n in enumerate(lengths)]
    whole = fill(TokenSample(capacity), np.concatenate(rows))
    random.shuffle(rows)
    parts = [TokenSample(capacity), TokenSample(capacity)]
    for row in rows:
        fill(random.choice(parts), row)
    parts[0].merge(parts[1])
    assert parts[0].seen == whole.seen == sum(lengths)
    assert len(whole.priority) == min(capacity, sum(lengths))
    np.testing.assert_array_equal(parts[0].priority, whole.priority)
    np.testing.assert_array_equal(parts[0].group, whole.group)
    if capacity:
        np.testing.assert_array_equal(parts[0].values("place"), whole.values("place"))


def test_priorities_are_distinct_and_spread_evenly() -> None:
    document, position = np.divmod(np.arange(100_000), 500)
    priority = token_priority(document, position)
    assert len(np.unique(priority)) == len(priority)
    low = priority < np.uint64(2**63)
    assert abs(low.mean() - 0.5) < 0.01
    assert abs(low[position == 0].mean() - 0.5) < 0.15


def test_resampled_spectra_are_those_of_the_resampled_tokens() -> None:
    """Weights 0, 1, 2 ... give what repeating the tokens so often gives."""
    generator = torch.Generator().manual_seed(0)
    for width in (12, 60):
        scale = torch.logspace(0, -3, width)
        stream = torch.randn(40, width, generator=generator) * scale + 3
        added = torch.randn(40, width, generator=generator)
        counts = torch.randint(0, 3, (40,), generator=generator)
        weights = torch.stack([torch.ones(40), counts]).double()
        found = depth_figures(stream, added, weights, torch.zeros(40).double())
        repeated = stream[torch.repeat_interleave(torch.arange(40), counts)].double()
        values = torch.linalg.eigvalsh(torch.cov(repeated.T, correction=0)).flip(0)
        np.testing.assert_allclose(found["participation_ratio"][1], values.sum() ** 2 / (values**2).sum(), rtol=1e-4)
        np.testing.assert_allclose(found["stable_rank"][1], values.sum() / values[0], rtol=1e-3)
        np.testing.assert_allclose(found["top_share"][1, 1], values[:4].sum() / values.sum(), rtol=1e-3)


def exact(stream: torch.Tensor, added: torch.Tensor) -> dict[str, float]:
    """The figures of all tokens, from the covariance itself in float64."""
    values, vectors = torch.linalg.eigh(torch.cov(stream.double().T, correction=0))
    values, vectors = values.flip(0), vectors.flip(1)
    held = int((values.cumsum(0) < 0.99 * values.sum()).sum()) + 1
    inside = (added.double() @ vectors[:, :held]).square().sum()
    return {
        "participation_ratio": float(values.sum() ** 2 / values.square().sum()),
        "stable_rank": float(values.sum() / values[0]),
        "new_share": float(1 - inside / added.double().square().sum()),
    }


def test_directions_sought_in_float32_are_those_of_float64() -> None:
    """Few and many tokens, steep and flat spectra, and a token far from all others, as attention sinks are."""
    generator = torch.Generator().manual_seed(0)
    for tokens, width in ((200, 256), (300, 96)):
        for slope in (0, -2, -5):
            for outlier in (1.0, 300.0):
                stream = torch.randn(tokens, width, generator=generator) * torch.logspace(0, slope, width) + 1
                stream[0] *= outlier
                added = 0.1 * torch.randn(tokens, width, generator=generator) + 0.1 * stream
                weights, unseen = torch.ones(1, tokens).double(), torch.zeros(tokens).double()
                found = depth_figures(stream, added, weights, unseen)
                for key, value in exact(stream, added).items():
                    np.testing.assert_allclose(found[key], value, rtol=1e-4, atol=2e-5, err_msg=key)


def test_a_sample_of_tokens_finds_the_width_of_all() -> None:
    """256 of 8192 tokens, 40 samples: the participation ratio has no bias, the stable rank what the module states."""
    generator = torch.Generator().manual_seed(0)
    stream = torch.randn(8192, 192, generator=generator) * torch.logspace(0, -0.6, 192)
    whole = exact(stream, stream)
    assert whole["participation_ratio"] > 80  # without correction 256 tokens would show less than 62
    ratios, ranks = [], []
    for _ in range(40):
        sample = stream[torch.randperm(8192, generator=generator)[:256]]
        weights, unseen = torch.ones(1, 256).double(), torch.full((256,), 1 - 256 / 8192).double()
        found = depth_figures(sample, None, weights, unseen)
        ratios.append(found["participation_ratio"][0] / whole["participation_ratio"])
        ranks.append(found["stable_rank"][0] / whole["stable_rank"])
    assert abs(np.mean(ratios) - 1) < 0.02
    assert np.std(ratios) < 0.05
    assert 1 - 2.5 * whole["stable_rank"] / 256 < np.mean(ranks) < 1
