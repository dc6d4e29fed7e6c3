"""`prune import` and `prune cut FILE.gguf` on the command line: exit codes, one line, JSON, silence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prune import cli
from tests.gguf.files import save_llama


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    """Exit code, standard output and standard error of a command line."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["prune", *map(str, arguments)])
        code = cli._run()
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return save_llama(tmp_path / "small.gguf")


def test_a_mistake_gets_one_line_and_its_exit_code(run, file: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(10))
    (tmp_path / "there.gguf").write_text("mine")
    out = tmp_path / "out"
    for arguments, code, message in (
        (["import", tmp_path / "none.gguf", "-o", out], 2, "none.gguf: no such file"),
        (["import", tmp_path / "bad.gguf", "-o", out], 1, "bad.gguf: is no GGUF file"),
        (["import", file, "-o", out, "--dtype", "int4"], 2, "--dtype 'int4': use one of float32, bfloat16, float16"),
        (["cut", file, "-o", tmp_path / "there.gguf", "--drop_layers", "1"], 2, "there.gguf: exists"),
        (["cut", file, "-o", out, "--drop_layers", "1"], 2, "ends in .gguf"),
        (["cut", tmp_path / "bad.gguf", "-o", tmp_path / "c.gguf", "--drop_layers", "1"], 1, "is no GGUF file"),
        (["verify", file], 2, "prune import"),
    ):
        found = run(*arguments)
        assert found[0] == code, found
        assert message in found[2]
        assert len(found[2].strip().splitlines()) == 1
    assert not out.exists()


def test_import_and_cut_say_what_they_did_or_would_do(run, file: Path, tmp_path: Path) -> None:
    out, cut = tmp_path / "out", tmp_path / "c.gguf"
    code, said, _ = run("import", file, "-o", out, "--dry-run", "--json")
    found = json.loads(said)
    assert (code, found["num_layers"], found["quantization"], out.exists()) == (0, 4, {"F32": 26, "Q8_0": 12}, False)
    code, said, _ = run("cut", file, "-o", cut, "--drop_layers", "1-2", "--dry-run", "--json")
    assert (code, json.loads(said)["keep"], cut.exists()) == (0, [0, 3], False)
    code, said, _ = run("cut", file, "-o", cut, "--drop_layers", "1-2")
    assert code == 0
    assert said.startswith(f"written and verified: {cut}, 2 of 4 layers")
    assert run("cut", file, "-o", tmp_path / "d.gguf", "--keep_layers", "0", "--no_verify", "--quiet") == (0, "", "")


def test_import_writes_and_quiet_is_silent(run, file: Path, tmp_path: Path) -> None:
    code, said, errors = run("import", file, "-o", tmp_path / "out", "--quiet")
    assert (code, said) == (0, "")
    assert "%|" not in errors  # progress bars
    assert (tmp_path / "out/config.json").is_file()
