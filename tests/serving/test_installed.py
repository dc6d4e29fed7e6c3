"""A runtime installed here in another version than the one that is spoken of: a warning with both numbers."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

import prune
from evals.runtimes import STAMP, TRIED, installed_version
from prune.serving.installed import warn_of_other_versions
from prune.serving.names import NAMES


@pytest.fixture
def environments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DEPTH_PRUNE_RUNTIMES", str(tmp_path / "runtimes"))
    return tmp_path / "runtimes"


def install(environments: Path, name: str, package: str, version: str) -> None:
    """An environment as scripts/runtime leaves it, with nothing in it but a package's metadata."""
    metadata = (
        environments / name / "lib" / "python3.11" / "site-packages" / f"{package}-{version}.dist-info" / "METADATA"
    )
    metadata.parent.mkdir(parents=True)
    metadata.write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    (environments / name / STAMP).write_text("{}")


def test_another_version_is_told_with_both_numbers(environments: Path, caplog: pytest.LogCaptureFixture) -> None:
    install(environments, "llama.cpp", "xllamacpp", "2027.1.2")
    warn_of_other_versions(NAMES)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "llama.cpp is 2027.1.2 here" in record.message
    assert TRIED["llama.cpp"] in record.message


def test_each_of_two_environments_is_told(environments: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("transformers-4.57", "transformers-4.51"):
        install(environments, name, "transformers", "4.50.0")
    warn_of_other_versions(["transformers4"])
    assert ["4.57.6" in caplog.records[0].message, "4.51.3" in caplog.records[1].message] == [True, True]


def test_the_version_that_was_compared_and_one_that_is_not_there_are_no_news(
    environments: Path, caplog: pytest.LogCaptureFixture
) -> None:
    install(environments, "vllm", "vllm", f"{TRIED['vllm']}+cpu")
    warn_of_other_versions(NAMES)
    assert caplog.records == []
    assert (installed_version("vllm"), installed_version("mlx")) == (TRIED["vllm"], None)


def test_an_installation_that_was_cut_off_counts_as_none(environments: Path) -> None:
    install(environments, "mlx", "mlx-lm", "1.0")
    (environments / "mlx" / STAMP).unlink()
    assert installed_version("mlx") is None


def test_cut_verify_and_export_tell_it_of_the_named_runtime_or_of_all(
    environments: Path, demo_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    install(environments, "vllm", "vllm", "9.9.9")
    out = tmp_path / "cut"

    def told() -> int:
        found = sum("vllm is 9.9.9 here" in record.message for record in caplog.records)
        caplog.clear()
        return found

    prune.cut(str(demo_model), out, drop_layers="3", runtime=["mlx"], verify=False)
    assert told() == 0  # another was asked for
    prune.verify(out)
    assert told() == 1
    prune.verify(out, runtime=["vllm"])
    assert told() == 1
    prune.export(out, tmp_path / "exported", override="a test")
    assert told() == 1  # the card speaks of all
    prune.cut(str(demo_model), tmp_path / "other", drop_layers="3", verify=False)
    assert told() == 1
