"""A family whose modelling code comes with the checkpoint: cut and proved where it is trusted, else refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from prune.checkpoint.source import resolve
from prune.errors import PruneError
from prune.model.loading import load_model
from prune.surgery.cut import cut
from prune.surgery.loaded import drop_layers
from tests.tiny_llama import save_llama

CODE = """
from transformers import LlamaConfig, LlamaForCausalLM


class OwnConfig(LlamaConfig):
    model_type = "own"


class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Four layers of a family that no library knows."""
    model = save_llama(tmp_path / "own")
    (model / "modeling_own.py").write_text(CODE)
    config = json.loads((model / "config.json").read_text())
    names = {"AutoConfig": "modeling_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}
    config |= {"model_type": "own", "architectures": ["OwnForCausalLM"], "auto_map": names}
    (model / "config.json").write_text(json.dumps(config))
    return model


def test_trusted_code_is_proved_by_replay_and_travels_with_the_result(own: Path, tmp_path: Path) -> None:
    source = resolve(own, trust_remote_code=True)
    assert cut(source, tmp_path / "out", drop_layers=[2]).verified
    assert (tmp_path / "out" / "modeling_own.py").read_text() == CODE
    ids = torch.arange(12)[None]  # [1, 12]
    in_memory = drop_layers(load_model(source), [2])
    assert torch.equal(load_model(source.at(tmp_path / "out"))(ids).logits, in_memory(ids).logits)


def test_code_that_is_not_trusted_is_not_run(own: Path, tmp_path: Path) -> None:
    with (own / "modeling_own.py").open("a") as code:
        code.write(f"\nopen({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(PruneError, match="proof failed"):
        cut(resolve(own), tmp_path / "out", drop_layers=[2])
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "ran").exists()
