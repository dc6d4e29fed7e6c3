"""The lines that start a pair, and the pairs that vLLM would take for something else."""

from __future__ import annotations

import json
import re

import pytest

from prune.drafting.runtimes import REWRITTEN, SWITCHING, refused_by_vllm, require_usable, run_lines, speculative_config
from prune.errors import PruneError


def test_vllm_is_told_the_method_the_draft_and_the_number_of_tokens():
    lines = run_lines("org/model", 3, {"model_type": "llama"})
    found = re.search(r"vllm serve org/model --speculative-config '(.*)'", lines)
    assert found
    assert json.loads(found[1]) == {"method": "draft_model", "model": "THIS_CHECKPOINT", "num_speculative_tokens": 3}
    assert json.loads(speculative_config(5, "d"))["model"] == "d"
    assert "convert_hf_to_gguf.py THIS_CHECKPOINT --outtype q8_0 --outfile draft.gguf" in lines
    assert "-md draft.gguf --spec-type draft-simple --spec-draft-n-max 3" in lines
    assert "--draft-max" not in lines
    assert "SGLang (written down, not run)" in lines


@pytest.mark.parametrize("kind", REWRITTEN)
def test_a_family_that_vllm_rewrites_gets_no_vllm_line(kind):
    lines = run_lines("org/model", 3, {"model_type": kind})
    assert "vllm serve" not in lines
    assert f"vLLM: not possible: it takes drafts of the family {kind}" in lines
    with pytest.raises(PruneError, match="use another runtime"):
        require_usable("vllm", {"model_type": kind}, "pair")
    require_usable("transformers", {"model_type": kind}, "pair")


@pytest.mark.parametrize("part", SWITCHING)
def test_a_name_that_switches_vllms_method_is_refused(part):
    assert refused_by_vllm({"model_type": "llama"}, f"My-{part.upper()}1")
    with pytest.raises(PruneError, match="give output another name"):
        require_usable("vllm", {"model_type": "llama"}, f"my-{part}1")
    assert refused_by_vllm({"model_type": "llama"}, "draft-5") is None
    require_usable("vllm", {"model_type": "llama"}, "draft-5")


def test_a_name_with_spaces_and_quotes_stays_one_argument():
    lines = run_lines("a 'b", 2, {"model_type": "llama"})
    assert "vllm serve 'a '\"'\"'b'" in lines
    assert 'from_pretrained("a \'b")' in lines
