"""Sums per document give the figures and intervals of the documents themselves, in bounded memory."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from prune.analysis import statistics
from prune.analysis.statistics import INTERVAL, MAX_GROUPS, Records, resampling, summarise


def domain(random: np.random.Generator, documents: int, depth: int = 5) -> tuple[np.ndarray, np.ndarray, Records]:
    """Tables [D, M, M] above the diagonal, weights [D], and the records they were added to in a few batches."""
    tables, weights = np.triu(random.normal(size=(documents, depth, depth)), 1), random.integers(1, 9, documents) * 1.0
    records = Records(documents)
    for index in np.array_split(np.arange(documents), min(3, documents)):
        records.add("table", index.tolist(), tables[index], weights[index], triangle=True)
        records.add("plain", index.tolist(), tables[index], weights[index])
        records.add("number", index.tolist(), tables[index, 0, 1], weights[index])
        records.add_maximum("largest", tables[index])
    return tables, weights, records


@pytest.mark.parametrize("at_once", [8, 1 << 22])
def test_figures_and_intervals_are_those_of_the_resampled_documents(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "RESAMPLED_BYTES", at_once * 50)
    random = np.random.default_rng(0)
    tables, weights, records = zip(*(domain(random, count) for count in (7, 4)), strict=True)
    found = summarise(records, 50, seed=3)
    top, bottom = np.concatenate(tables), np.concatenate(weights)
    counts = np.concatenate(resampling(records, 50, 3), 1)  # [R, D]
    drawn = [np.repeat(np.arange(11), row.astype(int)) for row in counts]
    means = np.stack([top[rows].sum(0) / bottom[rows].sum() for rows in drawn])  # [R, M, M]
    for key, of in (("table", np.s_[..., :, :]), ("plain", np.s_[..., :, :]), ("number", np.s_[..., 0, 1])):
        low, high = np.percentile(means, INTERVAL, axis=0)
        expected = {"": top.sum(0) / bottom.sum(), ".lo": low, ".hi": high}
        for suffix, value in expected.items():
            np.testing.assert_allclose(found[key + suffix], value[of], rtol=1e-5, atol=1e-7, err_msg=key + suffix)
    np.testing.assert_allclose(found["largest"], top.max(0), rtol=1e-6)
    assert "largest.lo" not in found


def test_merged_parts_are_the_whole() -> None:
    tables, weights, whole = domain(np.random.default_rng(1), 6)
    first, second = Records(6), Records(6)
    for part, index in ((first, [0, 2, 4]), (second, [1, 3, 5])):
        part.add("table", index, tables[index], weights[index], triangle=True)
        part.add_maximum("largest", tables[index])
    merged = Records(6)
    merged.merge(first)
    merged.merge(second)
    for key in ("table", "table.lo", "table.hi", "largest"):
        np.testing.assert_array_equal(summarise([merged], 20, 0)[key], summarise([whole], 20, 0)[key])


def test_memory_does_not_grow_beyond_the_groups() -> None:
    random = np.random.default_rng(2)
    sizes = [len(pickle.dumps(domain(random, count)[2])) for count in (MAX_GROUPS, 4 * MAX_GROUPS)]
    assert sizes[0] == pytest.approx(sizes[1], abs=64)


def test_a_figure_that_few_documents_have_is_resampled_with_those_only() -> None:
    """Only 2 of 12 documents have a prompt: some resamples hold none of them, and give no figure."""
    records = Records(12)
    records.add("prompted", [3, 7], np.array([[1.0], [3.0]]), np.ones(2))
    records.add("once", [3], np.array([[1.0]]), np.ones(1))
    found = summarise([records], 200, seed=0)
    assert (found["prompted"], found["prompted.lo"], found["prompted.hi"]) == (2.0, 1.0, 3.0)
    assert "once.lo" not in found


def test_one_document_of_a_domain_leaves_all_domains_without_an_interval() -> None:
    (_, _, one), (_, _, many) = domain(np.random.default_rng(2), 1), domain(np.random.default_rng(3), 9)
    assert "plain.lo" not in summarise([one, many], 50, seed=0)
    assert "plain.lo" in summarise([many], 50, seed=0)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    """Documents of unequal length and skewed figures, 40 at a time: the percentile bootstrap covers 90 to 97 %."""
    random, truth, covered = np.random.default_rng(7), np.exp(0.5**2 / 2), []
    for trial in range(300):
        lengths = random.integers(5, 50, 40) * 1.0
        values = random.lognormal(0, 0.5, (40, 5))
        records = Records(40)
        records.add("figure", range(40), values * lengths[:, None], lengths)
        found = summarise([records], 200, seed=trial)
        covered.append((found["figure.lo"] <= truth) & (truth <= found["figure.hi"]))
    assert 0.90 <= np.mean(covered) <= 0.97
