"""Would other documents choose other layers? How often, and how many documents it takes that they do not."""

from __future__ import annotations

import numpy as np
import pytest

from prune.analysis import analyze
from prune.analysis.stability import ENOUGH, stability
from prune.analysis.statistics import Records

from .tiny import domains, tiny

KEY = "block_influence"
TRUTH = np.array([0.30, 0.10, 0.20, 0.12, 0.25, 0.14, 0.40, 0.13])  # two of eight go: layers 1 and 3, 7 and 5 are near


def drawn(documents: int, seed: int, noise: float = 0.03) -> Records:
    records = Records(documents)
    values = TRUTH + np.random.default_rng(seed).normal(0, noise, (documents, len(TRUTH)))
    records.add(KEY, range(documents), values, np.ones(documents))
    return records


def test_the_share_is_that_of_resamples_with_the_same_layers() -> None:
    records = drawn(30, seed=0)
    row = stability([records], 8, 400, seed=1)[KEY]
    values = records.sums[KEY]
    chosen = set(np.argsort(values.mean(0))[:2].tolist())
    random = np.random.default_rng(5)
    again = [set(np.argsort(values[random.integers(30, size=30)].mean(0))[:2].tolist()) for _ in range(2000)]
    assert row["layers"] == sorted(chosen)
    assert row["same_set"] == pytest.approx(np.mean([found == chosen for found in again]), abs=0.06)
    assert row["overlap"] == pytest.approx(np.mean([len(found & chosen) / 2 for found in again]), abs=0.04)


def test_so_many_documents_do_settle_it() -> None:
    """Estimated from 40 documents, then tried: draws of that many give the same layers in about 90 of 100 cases."""
    needed = [stability([drawn(40, seed)], 8, 400, seed=0)[KEY]["documents_needed"] for seed in range(40)]
    typical = int(np.median([n if n is not None else 10**9 for n in needed]))
    hits = np.mean([
        set(np.argsort(drawn(typical, 1000 + seed).sums[KEY].sum(0))[:2].tolist()) == {1, 3} for seed in range(300)
    ])  # fmt: skip
    assert 0.8 <= hits <= 0.97


@pytest.mark.parametrize("documents", [4, 20, 100, 400])
def test_too_few_documents_always_need_more_than_there_are(documents: int) -> None:
    for seed in range(5):
        found = stability([drawn(documents, seed)], 8, 300, seed)
        row = found[KEY]
        assert (row["same_set"] < ENOUGH) == (row["documents_needed"] is None or row["documents_needed"] > documents)
        assert (row["same_set"] < ENOUGH) == ("sentence" in found)


def test_layers_that_are_alike_need_no_number_that_is_in_sight() -> None:
    records = Records(10)
    records.add(KEY, range(10), np.ones((10, 8)), np.ones(10))
    records.sums[KEY][:, 0] += np.random.default_rng(0).permutation([1e-9, -1e-9] * 5)
    assert stability([records], 8, 100, 0)[KEY]["documents_needed"] is None


def test_one_document_is_said_to_tell_nothing_of_uncertainty() -> None:
    found = analyze(tiny("llama"), domains({"one": (9,), "many": (8, 7, 12)}), measure=("contributions",), bootstrap=50)
    assert found.info["stability"] == {}
    assert f"{KEY}.lo" not in found.measurements
    assert f"by_domain/one/{KEY}.lo" not in found.measurements
    assert f"by_domain/many/{KEY}.lo" in found.measurements
    assert any(line.startswith("one: one document only") for line in found.info["warnings"])
