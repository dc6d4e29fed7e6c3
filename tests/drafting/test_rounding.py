"""Rounding to blocks is that of the file format, by the `gguf` package that llama.cpp's converter uses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from prune.drafting.network import Network, build
from prune.drafting.rounding import matrices, rounded
from prune.drafting.states import Row, record_states
from prune.drafting.training import Schedule, agreement, train
from prune.embedded import MODEL
from prune.model.loading import load_model


@pytest.mark.parametrize("kind", ["q4_0", "q8_0"])
def test_a_rounded_matrix_is_what_the_format_gives_back(kind):
    gguf = pytest.importorskip("gguf")
    weight = torch.randn(24, 96, generator=torch.Generator().manual_seed(1))
    weight[3, :32] = 0
    as_type = gguf.GGMLQuantizationType[kind.upper()]
    expected = gguf.quants.dequantize(gguf.quants.quantize(weight.numpy(), as_type), as_type)
    assert np.array_equal(rounded(weight, kind).numpy(), expected)


def test_rows_that_fill_no_blocks_stay():
    weight = torch.randn(4, 20)
    assert torch.equal(rounded(weight, "q4_0"), weight)


def test_a_draft_is_trained_as_it_will_be_served(tmp_path):
    original = load_model(str(MODEL))
    before = {name: p.detach().clone() for name, p in original.named_parameters()}
    network = Network(original)
    options = {"train_layers": 1, "train_norm": True}
    draft = build(original, [0, 1, 15], rounding="q4_0", **options)
    below = Network(build(original, [0, 1, 15], rounding="q4_0", **options).model)
    drawn = torch.Generator().manual_seed(3)
    rows = [Row("toy", tuple(torch.randint(2, 2048, (9,), generator=drawn).tolist()), 2) for _ in range(6)]
    states = record_states(network, rows, [2], tmp_path / "s", identity="x", tokens=64, below=below)
    losses = train(network, draft, states, Schedule(30, 2e-3, 64, 0, 10), tmp_path / "t", "x")
    assert losses[-1] < 0.8 * losses[0]
    assert all(torch.equal(p, before[name]) for name, p in original.named_parameters())
    own = {name: p.detach().clone() for name, p in draft.parameters.items()}
    found = agreement(network, draft, states, 64)
    for name, parameter in draft.parameters.items():  # agreement left the unrounded weights
        assert torch.equal(parameter, own[name])
    # A model whose every matrix was rounded by itself says the same.
    for parameter in matrices(draft.model).values():
        parameter.data = rounded(parameter.data, "q4_0")
    for row, seen in zip(rows, found, strict=True):
        ids = torch.tensor([row.input_ids])
        with torch.no_grad():
            ours, theirs = (m(ids).logits[0, row.answer_start - 1 : -1].argmax(-1) for m in (draft.model, original))
        assert seen.greedy == int((ours == theirs).sum())
