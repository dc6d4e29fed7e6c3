"""Every family, cut on disk and in memory, equals the original with those layers passed through, or is refused by name.

The default run takes a dozen families that differ in where their depth is written; `-m slow` takes all of them.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from zoo.exactness import DROPS, examine
from zoo.families import FAMILIES, REFUSED

DOZEN = (
    "bamba",  # an index list that a property expands
    "deepseek_v3",  # a dense prefix
    "dots3_note_text",  # a table of overrides by layer number
    "gemma3_text",  # a period, made an explicit list
    "gpt_neo",  # groups of names
    "gpt_neox_japanese",  # a last layer unlike the others
    "longcat_flash",  # two caches a layer
    "minicpm3",  # a constant that scales with the depth
    "nemotron_h",  # no depth field at all
    "qwen3_moe",  # a sparse step
    "qwen4_exp_text",  # layer numbers that count from one
    "recurrent_gemma",  # a cycle
)


@pytest.mark.parametrize("family", DOZEN)
def test_a_cut_is_exact_or_refused(family: str, tmp_path: Path) -> None:
    check(family, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(set(FAMILIES) - set(DOZEN)))
def test_a_cut_of_every_family_is_exact_or_refused(family: str, tmp_path: Path) -> None:
    check(family, tmp_path)


def test_most_families_are_exact_in_every_removal() -> None:
    assert len(FAMILIES) >= 135
    assert len(set(FAMILIES) - set(REFUSED)) >= 120


def check(family: str, scratch: Path) -> None:
    field, removals = REFUSED.get(family, ("", ()))
    for finding in examine(family, scratch, DROPS):
        if tuple(finding.drop) in removals:
            assert finding.verdict == "refused", finding
            assert re.search(field, finding.reason), finding.reason
            assert finding.memory.startswith("refused"), finding.memory
        else:
            assert (finding.verdict, finding.memory) == ("exact", "exact"), finding
