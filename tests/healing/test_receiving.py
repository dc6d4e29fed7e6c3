"""Under FSDP one process reads a checkpoint, and all have its model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import prune
from prune.analysis.processes import join
from prune.checkpoint.source import resolve
from prune.errors import PruneError
from prune.healing import receiving
from prune.model.loading import load_model
from tests.analysis.test_processes import launched
from tests.tiny_llama import save_llama


def received(rank: int, directory: Path) -> None:
    processes = join()
    if rank == 1:
        receiving.load_model = None  # type: ignore[assignment]  # must not be asked
    model = receiving.load_once(resolve(str(directory / "model")), processes)
    tied = model.lm_head.weight is model.model.embed_tokens.weight
    torch.save({"state": model.state_dict(), "logits": model(torch.arange(9)[None]).logits}, directory / f"{rank}.pt")
    (directory / f"{rank}.json").write_text(json.dumps([tied, model.generation_config.temperature]))
    processes.leave()


@pytest.mark.parametrize("tied", [True, False])
def test_what_one_process_reads_all_have(tied: bool, tmp_path: Path) -> None:
    path = save_llama(tmp_path / "model", num_hidden_layers=2, tie_word_embeddings=tied)
    (path / "generation_config.json").write_text('{"do_sample": true, "temperature": 0.7}')
    assert launched(received, tmp_path) == [0, 0]
    plain = load_model(str(path))
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert found["state"].keys() == plain.state_dict().keys()
        for name, tensor in plain.state_dict().items():
            assert torch.equal(found["state"][name], tensor), name
        assert torch.equal(found["logits"], plain(torch.arange(9)[None]).logits)  # computed buffers are there, too
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == [tied, 0.7]


def test_a_model_without_some_sub_layers_is_received_too(tmp_path: Path) -> None:
    whole = save_llama(tmp_path / "whole", num_hidden_layers=4, intermediate_size=256)
    prune.cut(whole, tmp_path / "model", drop_attn=[1], drop_mlp=[2], runtime="mlx", verify=False)
    assert launched(received, tmp_path) == [0, 0]
    plain = load_model(str(tmp_path / "model"))
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert found["state"].keys() == plain.state_dict().keys()
        assert torch.equal(found["logits"], plain(torch.arange(9)[None]).logits)


def eagerly(rank: int, directory: Path) -> None:
    processes = join()
    model = receiving.load_once(resolve(str(directory / "model"), attn_implementation="eager"), processes)
    (directory / f"{rank}.txt").write_text(model.config._attn_implementation)
    processes.leave()


def test_the_kind_of_attention_is_that_of_all(tmp_path: Path) -> None:
    save_llama(tmp_path / "model", num_hidden_layers=2)
    assert launched(eagerly, tmp_path) == [0, 0]
    assert [(tmp_path / f"{rank}.txt").read_text() for rank in range(2)] == ["eager", "eager"]


def other_files(rank: int, directory: Path) -> None:
    source = resolve(str(directory / f"model{rank}"))
    try:
        receiving.load_once(replace(source), join())
    except PruneError as error:
        (directory / f"said.{rank}").write_text(str(error))


def test_a_machine_with_other_files_is_named(tmp_path: Path) -> None:
    for rank, layers in enumerate((2, 3)):
        save_llama(tmp_path / f"model{rank}", num_hidden_layers=layers)
    assert launched(other_files, tmp_path) == [0, 0]
    for rank in range(2):
        assert "model.layers.2." in (tmp_path / f"said.{rank}").read_text()
        assert "the same files and versions" in (tmp_path / f"said.{rank}").read_text()
