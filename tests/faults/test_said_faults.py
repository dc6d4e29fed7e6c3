"""Faults of what is said: secrets in any output, and names that would move a cursor, start a heading or run."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
import yaml

from evals.secrets import REMOVED
from prune.checkpoint.directory import SINGLE
from tests.conftest import REPOSITORY
from tests.faults.checkpoints import CONFIG, four_layers, tensor_file
from tests.planted import CORE, HELD, SHAPED

STARTED = "import sys; from prune.cli import main; main()"
NASTY = "a\x1b[2Jb\u202ec\x9bd\u200be [red]f[/red]"
RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]")


def prune(*arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, with what it said."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run(
        [sys.executable, "-c", STARTED, *map(str, arguments)], capture_output=True, text=True, env=environment
    )


def leaked(outputs: dict[str, bytes], planted: Iterable[str]) -> dict[str, list[str]]:
    """Output -> the secrets in its bytes, as UTF-8 or as JSON escapes them."""
    found = {}
    for name, content in outputs.items():
        forms = [(s, s.encode(), json.dumps(s)[1:-1].encode()) for s in planted]
        if seen := [s for s, *written in forms if any(w in content for w in written)]:
            found[name] = seen
    return found


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_a_leak_is_seen(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x " + json.dumps(HELD["PGPASSWORD"]))
    assert leaked(files(tmp_path), HELD.values()) == {"a": [HELD["PGPASSWORD"]]}


def calls(folder: Path, name: str) -> list[tuple[str, str]]:
    """(file, source) of every call of a function or method of that name."""
    found = []
    for path in sorted(folder.rglob("*.py")):
        text = path.read_text(encoding="utf8")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and name in (getattr(node.func, "id", ""), getattr(node.func, "attr", "")):
                found.append((path.relative_to(REPOSITORY).as_posix(), ast.get_source_segment(text, node) or ""))
    return found


def test_f46_whatever_the_command_line_prints_goes_through_one_of_three_functions() -> None:
    ours = ("prune_version()", "RECIPE).read_text", 'answers", end=')  # texts and numbers of our own
    printed = [call for _, call in calls(REPOSITORY / "prune/cli", "print")]
    assert len(printed) > 5
    assert [
        c for c in printed if not re.search(r"shown|document|visible|grid", c) and not any(o in c for o in ours)
    ] == []


DOORS = {"prune/files.py", "evals/records.py"}
EXACT = {
    "prune/surgery/writer.py",  # tensors
    "prune/gguf/real_models.py",  # a model that is fetched
    "prune/runs/real_demo.py", "prune/healing/generate.py", "evals/answers.py",  # rows to train on, a model's answers
    "evals/draft_trials.py",  # seconds and counts
    "evals/peak_memory.py", "prune/cli/__init__.py", "prune/cli/help.py",  # the kernel, the null device, click's help
}  # fmt: skip
"""Modules that open files for writing themselves: none of them writes what this program has to say."""


def test_f46_nothing_is_written_past_the_doors() -> None:
    opened = re.compile(r"open\([^)]*['\"][wax]b?['\"]")
    names = ("write_text", "write_bytes", "open")
    found = [call for folder in ("prune", "evals") for name in names for call in calls(REPOSITORY / folder, name)]
    assert {file for file, call in found if ".write_" in call or opened.search(call)} == DOORS | EXACT


@pytest.fixture(scope="module")
def planted_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, subprocess.CompletedProcess[str]]:
    """A whole tiny run whose recipe has a secret in every free text; recipe, run directory, what was said."""
    from tests.faults.tiny_run import make_recipe

    directory = tmp_path_factory.mktemp("planted")
    path = make_recipe(directory)
    recipe = yaml.safe_load(path.read_text(encoding="utf8"))
    typed = "; ".join([*SHAPED.values(), *HELD.values()])
    for suite in recipe["eval"]["suites"]:
        suite |= {"title": f"Title {typed}", "titles": {"ja": f"題 {typed}"}}
    recipe["cost"] |= {"price_per_hour": 1.0, "price_note": f"from {typed}", "price_notes": {"ja": typed}}
    recipe["cost"]["currency"] = SHAPED["GitHub personal"]
    recipe["export"]["override"] = f"because {typed}"
    path.write_text(yaml.safe_dump(recipe, allow_unicode=True), encoding="utf8")
    done = prune("run", path, "-o", directory / "run", "--json", **HELD)
    return path, directory / "run", done


@pytest.mark.slow
def test_f46_no_secret_of_a_recipe_or_the_environment_is_in_any_byte_of_a_run(
    planted_run: tuple[Path, Path, subprocess.CompletedProcess[str]],
) -> None:
    recipe, root, done = planted_run
    assert done.returncode == 0, done.stderr[-2000:]
    (root / "evidence/evidence.json").stat()
    outputs = {**files(root), "stdout": done.stdout.encode(), "stderr": done.stderr.encode()}
    assert {"report.json", "report.html", "report.md", "recipe.yaml", "log.txt", "export/README.md"} <= outputs.keys()
    assert leaked(outputs, [*CORE.values(), *HELD.values()]) == {}
    for name in ("report.json", "report.md", "recipe.yaml", "export/README.md", "export/prune_manifest.json"):
        assert REMOVED in outputs[name].decode().replace("\\", ""), name
    again = prune("run", recipe, "-o", root, "--resume", **HELD)
    assert again.returncode == 0, again.stderr[-2000:]
    assert "recipe changed" not in again.stderr


@pytest.mark.slow
def test_f46_nor_in_a_report_made_again_or_an_export_by_hand(
    planted_run: tuple[Path, Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    _, root, _ = planted_run
    typed = "; ".join([*SHAPED.values(), *HELD.values()])
    (tmp_path / "outputs").mkdir()
    said = [
        prune("report", root, "--lang", "ja", **HELD),
        prune("export", root / "pruned/3", "-o", tmp_path / "outputs/export", "--override", typed, **HELD),
        prune("export", tmp_path / typed.replace("/", "-")[:200], "-o", tmp_path / "outputs/none", **HELD),
        prune("cut", root / "pruned/3", "-o", tmp_path / "outputs/none", f"--{SHAPED['npm']}", "1", **HELD),
    ]
    assert [done.returncode for done in said] == [0, 0, 2, 2], [done.stderr[-500:] for done in said]
    outputs = {**files(root), **files(tmp_path / "outputs")}
    outputs |= {f"said {n}": (done.stdout + done.stderr).encode() for n, done in enumerate(said)}
    assert leaked(outputs, [*CORE.values(), *HELD.values()]) == {}


def said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> str:
    """What the command line said, in this process."""
    from prune.cli import _run

    monkeypatch.setattr(sys, "argv", ["prune", *map(str, arguments)])
    _run()
    shown = capsys.readouterr()
    return shown.out + shown.err


def _tensor_name(source: Path) -> None:
    tensor_file(source / "b.safetensors", ["model.layers.2.w", "model.layers.3.w", "model.b", NASTY])


def _model_type(source: Path) -> None:
    (source / "config.json").write_text(json.dumps({**CONFIG, "model_type": NASTY, "is_encoder_decoder": True}))


def _architecture(source: Path) -> None:
    (source / "config.json").write_text(json.dumps({**CONFIG, "architectures": [f"{NASTY}ForMaskedLM"]}))


def _shard_name(source: Path) -> None:
    index = json.loads((source / "model.safetensors.index.json").read_text())
    index["weight_map"]["x"] = NASTY
    (source / "model.safetensors.index.json").write_text(json.dumps(index))


def _missing_head(source: Path) -> None:
    for path in source.glob("*.safetensors*"):
        path.unlink()
    tensor_file(source / SINGLE, [f"model.layers.{i}.w{NASTY}" for i in (0, 0)])


@pytest.mark.parametrize("spoil", [_tensor_name, _model_type, _architecture, _shard_name, _missing_head])
def test_f47_a_name_in_a_file_reaches_the_terminal_escaped(
    spoil, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(four_layers(tmp_path / "source"))
    text = said(capsys, monkeypatch, "cut", tmp_path / "source", "-o", tmp_path / "out", "--drop_layers", "1")
    assert not RAW.search(text)
    assert text.startswith("prune: ")
    assert text.count("\n") == 1
    if spoil is not _missing_head:
        assert "\\u001b[2J" in text or "\\x1b[2J" in text  # as JSON or as Python writes it


def test_f47_directories_flags_and_results_reach_the_terminal_escaped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = four_layers(tmp_path / NASTY.replace("/", "-"))
    for arguments in (
        ["cut", source, "-o", tmp_path / f"out{NASTY.replace('/', '-')}", "--drop_layers", "1", "--no_verify"],
        ["cut", source, "-o", tmp_path / f"x{NASTY.replace('/', '-')}", "--drop_layers", "1", "--dry_run", "--json"],
        ["cut", f"{NASTY}/{NASTY}", "-o", tmp_path / "y", "--drop_layers", "1"],
        ["cut", source, "-o", tmp_path / "y", f"--{NASTY}"],
        ["analyze", source, "-o", tmp_path / "y", "--data", f"{NASTY}={NASTY}"],
    ):
        text = said(capsys, monkeypatch, *arguments)
        assert text
        assert not RAW.search(text), arguments[0]
    assert json.loads(said(capsys, monkeypatch, "cut", source, "-o", tmp_path / "z", "--drop_layers", "1", "--dry_run",
                           "--json"))  # fmt: skip


def test_f47_a_table_shows_markup_as_it_stands(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from prune.cli.show import table

    monkeypatch.setenv("COLUMNS", "200")
    for terminal in (True, False):
        monkeypatch.setattr(sys.stdout, "isatty", lambda terminal=terminal: terminal)
        table(NASTY, [NASTY], [[NASTY], ["[/]\tx\ny"]], quiet=False)
        text = capsys.readouterr().out
        assert "[red]f[/red]" in text
        assert "\\u001b[2Jb\\u202ec" in text
        assert "[/]\\u0009x\\u000ay" in text
        assert "\u202e" not in text


def test_f47_what_libraries_log_and_bugs_show_is_escaped() -> None:
    code = (
        "import logging, sys, warnings\nfrom prune.cli import _speak_safely\n_speak_safely()\n"
        "logging.getLogger('lm_eval').warning('got %s', sys.argv[1])\nwarnings.warn(sys.argv[1])\n"
        "raise ValueError(sys.argv[1])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, f"{NASTY} {SHAPED['npm']}"], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    assert done.stderr.count("\\u001b[2Jb\\u202ec\\u009bd") == 3
    assert done.stderr.count(REMOVED) == 3
    assert not RAW.search(done.stderr)


def test_f48_a_card_holds_names_as_they_are(tmp_path: Path) -> None:
    from huggingface_hub import ModelCard
    from markdown_it import MarkdownIt

    from prune.packaging.card import write_card
    from prune.packaging.mergekit import write_mergekit

    hostile = "x` <script>alert(1)</script>\n\n---\n# Title | [a](b) {0}: !!python/object:os.system \u202e\x1b[2J"
    plan = {"num_layers": 4, "keep": [0, 1, 3], "drop": [2], "criterion": hostile, "strategy": hostile}
    figures = {"identical": 1, "prompts": 1, "acceptance_rate": 1.0, "speedup": 1.0, "expected_speedup": 1.0,
               "num_assistant_tokens": 4}  # fmt: skip
    facts = {
        "source": hostile, "label": hostile, "overrides": [hostile], "plan": plan,
        "drafts": {"num_layers": 3, "stage": "pruned", "suites": {hostile: figures}},
        "healing": {"settings": {"method": "lora", "distill_weight": 1.0}, "teacher": hostile},
    }  # fmt: skip
    write_card(tmp_path, facts, None)
    text = (tmp_path / "README.md").read_text(encoding="utf8")
    assert not RAW.search(text)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.base_model is None  # no repository has such a name
    assert hostile in card.data.model_name
    page = MarkdownIt("commonmark").enable("table").render(card.text)
    assert "<script" not in page
    assert "<a " not in page
    assert [found.count("<h1>") + found.count("<hr") for found in [page]] == [1]
    code = re.search(r"```python\n(.*?)```", card.text, re.DOTALL)
    compile(code[1], "card", "exec")
    write_mergekit(tmp_path, hostile, [0, 1], "bfloat16")
    assert yaml.safe_load((tmp_path / "mergekit_config.yml").read_text(encoding="utf8"))["slices"][0]["sources"] == [
        {"model": hostile, "layer_range": [0, 2]}
    ]


def test_f48_a_recipe_is_written_with_what_it_holds(tmp_path: Path) -> None:
    from prune.files import write_text
    from prune.runs.recipe import dump_recipe, load_recipe
    from tests.faults.tiny_run import make_recipe

    recipe = load_recipe(make_recipe(tmp_path))
    note = f"{NASTY}\n- {{x}}: 'y' # z 日本語 " + "long " * 40
    recipe = recipe.model_copy(update={"cost": recipe.cost.model_copy(update={"price_note": note})})
    write_text(tmp_path / "again.yaml", dump_recipe(recipe))
    assert not RAW.search((tmp_path / "again.yaml").read_text(encoding="utf8"))
    assert load_recipe(tmp_path / "again.yaml").cost.price_note == note
