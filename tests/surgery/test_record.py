"""`prune_cut.json`: on disk after every cut, asked by `prune verify`, and never carried over to other weights."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

import prune
from prune.checkpoint.directory import CUT_RECORD
from prune.errors import PruneError, UsageError
from prune.files import sha256_file
from prune.packaging.export import export_checkpoint
from prune.packaging.saving import save_like
from prune.surgery.cut import cut
from tests.faults.checkpoints import four_layers
from tests.tiny_llama import save_llama


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`source`, and `out`: its cut, the proof replaced by nothing (it has its own tests)."""
    path = tmp_path_factory.mktemp("record")
    save_llama(path / "source")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prune.surgery.proof.prove_in_child", lambda *arguments: None)
        cut(str(path / "source"), path / "out", drop_layers=[1])
    return path


def record(directory: Path) -> Any:
    return json.loads((directory / CUT_RECORD).read_text())


def test_the_record_states_source_layers_proof_and_hashes(root: Path, tmp_path: Path) -> None:
    found = record(root / "out")
    assert found["source"] == {
        "model": "source",
        "revision": None,
        "config_sha256": sha256_file(root / "source/config.json"),
    }
    assert (found["keep"], found["drop"], found["num_layers_before"]) == ([0, 2, 3], [1], 4)
    assert found["verified"] is True
    files = {p.name for p in (root / "out").iterdir()} - {CUT_RECORD}
    assert {name: each["sha256"] for name, each in found["files"].items()} == {
        name: sha256_file(root / "out" / name) for name in files
    }
    cut(str(root / "source"), tmp_path / "quick", drop_layers=[1], verify=False)
    quick = record(tmp_path / "quick")
    assert quick["verified"] is False
    weights = quick["files"]["model.safetensors"]
    assert weights == {"bytes": (tmp_path / "quick/model.safetensors").stat().st_size, "sha256": None}
    assert quick["files"]["config.json"]["sha256"] == sha256_file(tmp_path / "quick/config.json")


def test_verify_rehashes_and_reloads_a_cut(root: Path, tmp_path: Path) -> None:
    report = prune.verify(root / "out")
    assert report["proved_when_cut"] is True
    assert (report["num_layers"], report["hashed"]) == (3, len(record(root / "out")["files"]))
    for name in ("model.safetensors", "config.json"):
        copy = tmp_path / name
        shutil.copytree(root / "out", copy)
        raw = bytearray((copy / name).read_bytes())
        raw[len(raw) // 2] ^= 1
        (copy / name).write_bytes(raw)
        with pytest.raises(PruneError, match=f"{name} was changed"):
            prune.verify(copy)
    (copy / "extra.txt").write_text("x")
    (copy / "generation_config.json").unlink()
    with pytest.raises(PruneError, match=r"generation_config\.json is missing; extra\.txt was added"):
        prune.verify(copy)
    with pytest.raises(UsageError, match=r"prune_manifest\.json"):
        prune.verify(root / "source")


def test_verify_finds_weights_that_are_not_finite_where_none_were_hashed(root: Path, tmp_path: Path) -> None:
    cut(str(root / "source"), tmp_path / "out", drop_layers=[1], verify=False)
    weights = tmp_path / "out/model.safetensors"
    raw = weights.read_bytes()
    weights.write_bytes(raw[:-4] + b"\0\0\xc0\x7f")  # a float32 NaN in the last place
    with pytest.raises(PruneError, match="NaN"):
        prune.verify(tmp_path / "out")


def test_other_weights_do_not_carry_the_record(root: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(root / "out")
    (tmp_path / "healed").mkdir()
    save_like(model, [], root / "out", tmp_path / "healed")
    assert not (tmp_path / "healed" / CUT_RECORD).exists()
    cut(str(root / "out"), tmp_path / "twice", drop_layers=[0], verify=False)
    assert record(tmp_path / "twice")["keep"] == [1, 2]
    manifest = export_checkpoint(root / "out", tmp_path / "export", evidence=None, facts={}, override="a test")
    assert not (tmp_path / "export" / CUT_RECORD).exists()
    assert manifest["cut"]["keep"] == [0, 2, 3]
    assert "files" not in manifest["cut"]


def test_a_damaged_record_is_refused(tmp_path: Path) -> None:
    cut(str(four_layers(tmp_path / "source")), tmp_path / "out", drop_layers=[1], verify=False)
    (tmp_path / "out" / CUT_RECORD).write_text('{"format": 1, "files": {"a": 3}}')
    with pytest.raises(PruneError, match="not a record of format 1"):
        prune.verify(tmp_path / "out")


def test_a_cut_without_proof_imports_no_torch(tmp_path: Path) -> None:
    source = four_layers(tmp_path / "source")
    code = (
        "import sys; from prune.surgery.cut import cut; "
        f"cut({str(source)!r}, {str(tmp_path / 'out')!r}, drop_layers=[1], verify=False); "
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert (tmp_path / "out" / CUT_RECORD).is_file()
