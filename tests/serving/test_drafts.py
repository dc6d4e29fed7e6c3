"""vLLM wants every layer of a draft in one cache: the flag stands where windows are mixed, and only there."""

from __future__ import annotations

import pytest

from prune.drafting.runtimes import run_lines
from prune.packaging.pair import pair_section
from prune.serving.drafts import ONE_CACHE, vllm_flags
from prune.surgery.config_fields import edit_config
from tests.serving.test_readers import config_of


@pytest.mark.parametrize("family", ["gemma2", "gemma3_text", "cohere2", "gpt_oss"])
def test_mixed_windows_need_the_flag(family: str) -> None:
    assert vllm_flags(config_of(family)) == f" {ONE_CACHE}"


@pytest.mark.parametrize("family", ["llama", "qwen3", "smollm3"])
def test_layers_of_one_kind_need_none(family: str) -> None:
    assert vllm_flags(config_of(family)) == ""


def test_it_is_the_draft_that_counts() -> None:
    """The first five layers of Gemma 3 all have a window."""
    assert vllm_flags(edit_config(config_of("gemma3_text"), range(5))) == ""


def test_a_config_of_which_nothing_is_known_gets_none() -> None:
    assert vllm_flags({"model_type": "no_such_family"}) == ""
    assert vllm_flags({}) == ""


def test_both_cards_have_the_flag() -> None:
    row = {"identical": 5, "prompts": 5, "acceptance_rate": 0.5, "speedup": 0.9, "expected_speedup": 0.9}
    suites = {"general": row | {"num_assistant_tokens": 3}}
    facts = {"source": "org/model", "drafts": {"num_layers": 6, "stage": "pruned", "suites": suites}}
    config = config_of("gemma3_text")
    for card in (pair_section(facts, config), run_lines("org/model", 3, config)):
        (line,) = [line for line in card.splitlines() if line.startswith("vllm serve")]
        assert line.endswith(f"}}' {ONE_CACHE}")
