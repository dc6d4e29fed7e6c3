"""`prune export --quantize`: a variant beside the full checkpoint that loads, verifies and claims no evidence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import prune
from prune.errors import PruneError, UsageError
from prune.model.loading import load_model
from prune.packaging.quantized import write_variant
from tests.tiny_llama import save_llama

WEIGHT = "model.layers.2.mlp.down_proj.weight"


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("quantized")
    save_llama(root / "source", vocab_size=96, hidden_size=64, intermediate_size=128)
    (root / "source/LICENSE").write_text("the licence")
    prune.cut(str(root / "source"), root / "cut", drop_layers=[1], verify=False)
    prune.export(str(root / "cut"), root / "full", override="a test", source="org/demo")
    return root / "full"


@pytest.mark.parametrize(("kind", "levels"), [("nf4", 16), ("int8", 256)])
def test_the_variant_stands_beside_the_full_one_and_verifies(full: Path, kind: str, levels: int) -> None:
    pytest.importorskip("bitsandbytes")
    manifest = write_variant(full, kind)
    variant = full.with_name(f"full-{kind}")
    assert prune.verify(variant)["label"] == manifest["label"]
    assert "not measured itself" in manifest["label"]
    assert not {"evidence", "verdict"} & set(manifest)
    assert manifest["variant_of"]["name"] == "full"
    assert (variant / "LICENSE").read_text() == "the licence"
    before, after = (json.loads((path / "config.json").read_text()) for path in (full, variant))
    assert {key: value for key, value in after.items() if key != "quantization_config"} == before
    stored = load_file(variant / "model.safetensors")[WEIGHT]
    assert stored.dtype == (torch.uint8 if kind == "nf4" else torch.int8)
    wanted = load_file(full / "model.safetensors")[WEIGHT]  # [d, m]
    found = load_model(str(variant), device="cpu").get_submodule(WEIGHT.removesuffix(".weight"))
    rows = torch.eye(wanted.shape[1])  # [m, m]
    with torch.no_grad():
        error = (found(rows).float().T - wanted).abs().max() / wanted.abs().max()
    assert 0 < error < {16: 0.2, 256: 0.02}[levels]  # half of the widest step: 0.152 of the largest weight in NF4
    with pytest.raises(UsageError, match="not empty"):
        write_variant(full, kind)


def test_a_flipped_byte_in_the_variant_is_found(full: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    import shutil

    shutil.copytree(full, tmp_path / "full")
    write_variant(tmp_path / "full", "nf4")
    weights = tmp_path / "full-nf4/model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.write_bytes(raw)
    with pytest.raises(PruneError, match=r"model\.safetensors was changed"):
        prune.verify(tmp_path / "full-nf4")


def test_the_command_writes_both_and_refuses_a_second_quantisation(full: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    import typer
    from typer.testing import CliRunner

    from prune.cli.commands.export import command

    app = typer.Typer()
    app.command()(command)
    arguments = [str(full), "-o", str(tmp_path / "out"), "--override", "a test", "--quantize", "nf4"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "out-nf4 (not measured itself)" in done.output
    assert (tmp_path / "out/prune_manifest.json").is_file()
    with pytest.raises(PruneError, match="already quantised"):
        write_variant(tmp_path / "out-nf4", "int8")
    for dry_run in (True, False):
        with pytest.raises(PruneError, match=r"quantize int8: .*out-nf4 is already quantised"):
            prune.export(
                str(tmp_path / "out-nf4"), tmp_path / "again", override="a test", quantize="int8", dry_run=dry_run
            )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out-nf4"]


def test_what_cannot_be_done_is_said_before_anything_is_written(
    full: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="nf4, int8"):
        prune.export(str(full), tmp_path / "out", override="a test", quantize="int3")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install bitsandbytes"):
        prune.export(str(full), tmp_path / "out", override="a test", quantize="nf4")
    assert not list(tmp_path.iterdir())
