"""The command line: quick help without torch, one-line errors with the right exit code, nothing overwritten."""

from __future__ import annotations

import ast
import contextlib
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import typing
from pathlib import Path

import pytest

import prune
from prune import cli
from prune.cli.app import COMMANDS, build
from prune.embedded import HERE, MODEL
from prune.errors import UsageError

STORIES = str(HERE / "data/calibration/stories.jsonl")


def run(*arguments, code=None):
    done = subprocess.run(
        [sys.executable, "-c", "from prune.cli import main; main()", *map(str, arguments)],
        capture_output=True,
        text=True,
    )
    if code is not None:
        assert done.returncode == code, done.stderr
    return done


def test_help_imports_neither_torch_nor_transformers():
    script = (
        "import sys\nsys.argv = ['prune', '--help']\nfrom prune.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print([m for m in ('torch', 'transformers', 'peft', 'lm_eval', 'datasets', 'plotly') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")
    for command in ("analyze", "plan", "cut", "generate", "heal", "eval", "export", "verify", "report", "run", "demo"):
        assert command in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["analyze", "no_such_dir", "-o", "OUT", "--data", f"a={STORIES}"], 2, "no_such_dir: no such model directory"),
        (["analyze", str(MODEL), "-o", "OUT", "--data", "a=missing.jsonl"], 2, "no such file"),
        (["analyze", str(MODEL), "-o", "OUT", "--data", "stories"], 2, "NAME=PATH"),
        (["analyze", str(MODEL), "-o", "OUT", "--data", "a=EMPTY.jsonl"], 1, "holds no documents"),
        (["analyze", str(MODEL), "-o", "FULL", "--data", f"a={STORIES}"], 2, "not empty"),
        (["analyze", str(MODEL), "-o", "OUT", "--data", f"a={STORIES}", "--swap_distances", "1;2"], 2, "'1;2'"),
        (["analyze", str(MODEL), "-o", "OUT", "--data", f"a={STORIES}", "--measure", "swop"], 2, "did you mean 'swap'"),
        (["analyse"], 2, "Did you mean 'analyze'"),
        (["cut", str(MODEL), "-o", "OUT", "--drop_layers", "14-16"], 2, "layer 16 does not exist"),
        (["cut", str(MODEL), "-o", "OUT", "--drop_layers", "0-15"], 2, "all 16 layers"),
        (["cut", str(MODEL), "-o", "FULL", "--drop_layers", "3"], 2, "FULL"),
        (["cut", str(MODEL), "-o", "OUT"], 2, "--drop_layers"),
        (["plan", "FULL", "-o", "OUT.json", "--num_layers", "3"], 2, "no analysis.json"),
        (["heal", str(MODEL), "-o", "OUT", "--data", f"a={STORIES}"], 2, "--teacher"),
        (["heal", str(MODEL), "-o", "OUT", "--data", f"a={STORIES}", "--lora_r", "0"], 2, "lora_r"),
        (["generate", "embedded", "-o", "OUT", "--data", f"a={STORIES}"], 2, ".jsonl"),
        (["eval", str(MODEL), "--baseline", str(MODEL), "--suite", "matth", "-o", "OUT"], 2, "math"),
        (["export", str(MODEL), "-o", "OUT"], 3, "--evidence"),
        (["verify", str(MODEL)], 2, "no prune_manifest.json"),
        (["run", "missing.yaml"], 2, "missing.yaml: no such recipe"),
        (["report", "FULL"], 2, "FULL"),
    ],
)
def test_a_mistake_gets_one_line_and_its_exit_code(tmp_path, monkeypatch, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "EMPTY.jsonl").write_text("")
    (tmp_path / "FULL").mkdir()
    (tmp_path / "FULL/precious.txt").write_text("mine")
    done = run(*arguments, code=code)
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr
    assert (tmp_path / "FULL/precious.txt").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["EMPTY.jsonl", "FULL"]


def test_flags_may_be_written_with_dashes_and_json_is_clean(tmp_path):
    done = run("cut", MODEL, "-o", tmp_path / "out", "--drop-layers", "3-4", "--dry-run", "--json", code=0)
    assert json.loads(done.stdout)["drop"] == [3, 4]
    assert not (tmp_path / "out").exists()


def test_the_steps_by_hand_give_a_checkpoint_that_verifies(tmp_path):
    run("analyze", "embedded", "-o", tmp_path / "a", "--data", f"stories={STORIES}", "--calib_num_samples", "4",
        "--bootstrap", "20", "--quiet", code=0)  # fmt: skip
    run("plan", tmp_path / "a", "-o", tmp_path / "plan.json", "--criterion", "block_influence", "--strategy",
        "one_shot", "--num_layers", "14", code=0)  # fmt: skip
    run("cut", "embedded", "-o", tmp_path / "cut", "--plan", tmp_path / "plan.json", code=0)
    run("export", tmp_path / "cut", "-o", tmp_path / "out", "--plan", tmp_path / "plan.json", "--override",
        "a test", code=0)  # fmt: skip
    done = run("verify", tmp_path / "out", "--json", code=0)
    assert json.loads(done.stdout)["overrides"] == ["a test"]
    assert str(tmp_path) not in (tmp_path / "out/prune_manifest.json").read_text()


def test_a_local_models_path_does_not_reach_the_manifest(tmp_path):
    shutil.copytree(MODEL, tmp_path / "private" / "my-model")
    source = tmp_path / "private" / "my-model"
    run("cut", source, "-o", tmp_path / "cut", "--drop_layers", "3", "--no_verify", code=0)
    run("export", tmp_path / "cut", "-o", tmp_path / "out", "--source", source, "--override", "a test", code=0)
    manifest = json.loads((tmp_path / "out/prune_manifest.json").read_text())
    assert manifest["source"] == "my-model"
    assert str(tmp_path) not in json.dumps(manifest)
    assert str(tmp_path) not in (tmp_path / "out/README.md").read_text()


def test_help_shows_every_bracket_and_default_where_it_is_a_table():
    """Rich reads `[...]` in a help text as markup and drops it, defaults included."""
    from rich.text import Text

    for name in COMMANDS:
        (command,) = (c for c in build([name]).registered_commands if c.name == name)
        hints = typing.get_type_hints(command.callback, include_extras=True).values()
        texts = [note.help for hint in hints for note in getattr(hint, "__metadata__", ())]
        assert texts
        for text in texts:
            assert Text.from_markup(text).plain == text, name


def test_help_names_the_choices_and_the_defaults(capsys, monkeypatch):
    def help_of(command):
        with contextlib.suppress(SystemExit):
            build([command])([command, "--help"], standalone_mode=False)
        return " ".join(capsys.readouterr().out.replace("│", " ").split())

    for columns in ("200", "80", "60"):  # a table, and plain lines
        monkeypatch.setenv("COLUMNS", columns)
        assert re.search(r"Rank of the adapters\. \[default: 16[;\]]", help_of("heal")), columns
        assert "angular, answer_accuracy, answer_nll, block_influence" in help_of("plan")
        assert "greedy, greedy_full, greedy_swap, in_step, one_shot" in help_of("plan")


@pytest.mark.parametrize("columns", [60, 80, 100, 150])
def test_help_is_as_wide_as_the_terminal_and_has_its_flags_in_groups(columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    with contextlib.suppress(SystemExit):
        build(["heal", "--help"])(["heal", "--help"], standalone_mode=False)
    lines = capsys.readouterr().out.splitlines()
    assert 0.85 * columns < max(map(len, lines)) <= columns
    headings = [re.sub(r"[─╭╮:\s]", "", text) for text in lines if re.match(r"╭|\w+:$", text)]
    assert headings == ["Arguments", "Options", "Data", "Method", "Training", "Output", "Advanced"]
    flags = [word for text in lines for word in re.findall(r"--\w+", text)]
    assert flags.index("--teacher") < flags.index("--max_length") < flags.index("--lora_r") < flags.index("--seed")


def test_help_of_eval_lists_the_suites_with_their_tasks(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "90")
    with contextlib.suppress(SystemExit):
        build(["eval", "--help"])(["eval", "--help"], standalone_mode=False)
    said = " ".join(capsys.readouterr().out.split())
    for name, suite in prune.suites().items():
        assert f"{name}: {', '.join(suite['tasks'])}." in said


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("prune com", {"compare", "compensate"}), ("prune heal --lora", {"--lora_r", "--lora_alpha"})],
)
def test_a_shell_completes_commands_and_their_flags(typed, offered):
    words = typed.split()
    shell = {"_PRUNE_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(len(words) - 1)}
    script = "import sys; sys.argv = ['prune']; from prune.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env={**os.environ, **shell})
    assert offered <= set(done.stdout.split()), done.stderr
    assert all(word.startswith(words[-1]) for word in done.stdout.split())


def test_the_lists_name_what_there_is(capsys):
    from prune.planning.registry import CRITERIA, STRATEGIES

    for command in ("suites", "criteria"):
        build([command])([command, "--json"], standalone_mode=False)
        found = json.loads(capsys.readouterr().out)
        assert found == getattr(prune, command)()
    assert set(found["criteria"]) >= set(CRITERIA)
    assert set(found["strategies"]) >= set(STRATEGIES)
    build(["suites"])(["suites", "--data"], standalone_mode=False)
    said = capsys.readouterr().out
    assert "math\tgsm8k\topenai/gsm8k (main)\ttest.jsonl, train.jsonl\t" in said


@pytest.mark.parametrize("name", prune.__all__)
def test_every_argument_of_a_function_is_in_its_docstring(name):
    function = getattr(prune, name)
    said = inspect.getdoc(function) or ""
    assert undocumented(inspect.signature(function).parameters, said) == []


@pytest.mark.parametrize("name", [name for name in prune.__all__ if inspect.isfunction(getattr(prune, name))])
def test_every_function_is_called_in_its_docstring_with_arguments_that_it_takes(name):
    function = getattr(prune, name)
    shown = re.findall(r"^    ((?:\w+ = )?prune\.\w+\(.*\))$", inspect.getdoc(function), re.MULTILINE)
    calls = [node for line in shown for node in ast.walk(ast.parse(line)) if isinstance(node, ast.Call)]
    own = [call for call in calls if ast.unparse(call.func) == f"prune.{name}"]
    assert own
    for call in own:
        inspect.signature(function).bind(*call.args, **{keyword.arg: keyword.value for keyword in call.keywords})


def undocumented(arguments, docstring):
    """Arguments with no entry of their own (`name:`, or `one, other:`) and no mention in backticks."""
    entries = re.findall(r"^\s+((?:\w+, )*\w+): ", docstring, re.MULTILINE)
    named = {name for entry in entries for name in entry.split(", ")} | set(re.findall(r"`(\w+)`", docstring))
    return [argument for argument in arguments if argument not in named]


def test_a_word_that_happens_to_hold_an_arguments_name_does_not_document_it():
    docstring = (
        "Reads metadata, and the models.\n\nArgs:\n    one, other: of them.\n\nThe `third` is told in a sentence."
    )
    arguments = ["data", "model", "one", "other", "third"]
    assert undocumented(arguments, docstring) == ["data", "model"]


@pytest.mark.parametrize("name", sorted(set(prune.__all__) & set(COMMANDS)))
def test_a_command_has_a_flag_for_every_argument_of_its_function(name):
    (command,) = (c for c in build([name]).registered_commands if c.name == name)
    flags = set(inspect.signature(command.callback).parameters)
    arguments = set(inspect.signature(getattr(prune, name)).parameters)
    more = {"cut": {"copy", "dtype"}, "generate": {"progress"}}  # models in memory; a function to call
    of_python = {"tokenizer", *more.get(name, ())}
    assert arguments - flags - of_python - {"settings"} == set()


@pytest.mark.parametrize(("command", "cure"), [("heal", "--resume goes on"), ("cut", "nothing was written")])
def test_an_interrupted_command_says_what_it_does_next(command, cure, monkeypatch, capsys):
    def interrupted(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("prune.cli.app.build", interrupted)
    monkeypatch.setattr(sys, "argv", ["prune", command, "a", "-o", "b"])
    assert cli._run() == 130
    assert cure in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["cut", b"caf\xe9", "-o", "out", "--drop_layers", "2"], b"caf\xe9"),
        (["cut", MODEL, "-o", b"caf\xe9/out", "--drop_layers", "2"], b"caf\xe9"),
        (["analyze", "embedded", "-o", "out", "--data", b"a=d\xe9.txt"], b"d\xe9.txt"),
        (["run", b"r\xe9.yaml", "-o", "out"], b"r\xe9.yaml"),
    ],
)
def test_a_name_that_is_not_utf8_is_refused_before_anything_is_written(tmp_path, arguments, name):
    shutil.copytree(MODEL, os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    command = [sys.executable, "-c", "from prune.cli import main; main()", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(Path(prune.__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, cwd=tmp_path, env=environment)
    assert done.returncode == 2
    said = done.stderr.decode()
    assert f"the name {name!r} is not UTF-8: rename it" in said
    assert said.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["caf\udce9"]


def test_a_model_below_a_directory_that_is_not_utf8_is_refused_too(tmp_path, monkeypatch):
    inside = tmp_path / "caf\udce9"
    shutil.copytree(MODEL, inside / "m")
    monkeypatch.chdir(inside)
    with pytest.raises(UsageError, match=r"m: the name b'caf\\xe9' is not UTF-8"):
        prune.cut("m", drop_layers=[2], output=tmp_path / "out")


def test_python_without_docstrings_gets_a_sentence(tmp_path):
    environment = {**os.environ, "PYTHONOPTIMIZE": "2"}
    command = [sys.executable, "-c", "from prune.cli import main; main()", "verify", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    assert done.stderr.startswith("prune: Python runs without docstrings (PYTHONOPTIMIZE=2")
    assert done.stderr.count("\n") == 1
    done = subprocess.run(
        [sys.executable, "-c", "import prune; prune.cut"], capture_output=True, text=True, env=environment
    )
    assert "ImportError: Python runs without docstrings" in done.stderr


SLOWLY = """
import time
from evals import progress
from prune.model import tracing
progress.EVERY = 0.2
progress.shown.__wrapped__.__kwdefaults__["every"] = 0.2
from prune.analysis import clean_pass
whole = clean_pass.CleanPass.__init__
def slow(self, *arguments, **options):
    time.sleep(0.7)
    whole(self, *arguments, **options)
clean_pass.CleanPass.__init__ = slow
from prune.cli import main
main()
"""


@pytest.mark.parametrize("quiet", [[], ["--quiet"]])
def test_slow_work_says_in_a_log_how_far_it_is_unless_told_not_to(tmp_path, quiet):
    (tmp_path / "d.txt").write_text("\n\n".join(f"A dog ran {n} times." for n in range(3)))
    arguments = ["analyze", MODEL, "-o", tmp_path / "a", "--data", f"general={tmp_path / 'd.txt'}"]
    few = ["--measure", "contributions", "--batch_size", "1", "--bootstrap", "10"]
    done = subprocess.run(
        [sys.executable, "-c", SLOWLY, *map(str, arguments), *few, *quiet], capture_output=True, text=True
    )
    said = [text for text in done.stderr.splitlines() if text.startswith("prune: analyze")]
    if quiet:
        assert done.stderr == ""
        return
    assert any(
        re.search(r"analyze: model > measuring: 2 of 3 documents, general.*\d:\d\d elapsed, about \d:\d\d left", text)
        for text in said
    )
