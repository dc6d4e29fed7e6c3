"""The application: which commands there are, and only the asked-for one loaded.

`prune --help` needs names and one line each, not a hundred flags; a command's module is imported when it is called.
"""

from __future__ import annotations

import functools
import importlib
import shutil
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

WIDE = 120
"""Columns from which the help is a Rich table."""

COMMANDS = {
    "analyze": "Measure how a model uses its depth.",
    "plan": "Decide which layers go.",
    "compensate": "Repair the gaps of a plan without training: the layer before each is rewritten.",
    "import": "Turn a GGUF file into a transformers checkpoint.",
    "cut": "Remove layers from a checkpoint, exactly.",
    "generate": "Let the original model answer prompts: training data for heal.",
    "teach": "Write down what the original predicts on the training data: heal then needs no original.",
    "draft": "A few layers, trained to propose what the model then says: faster, the same answers.",
    "heal": "Train a cut model back towards its original, and merge.",
    "eval": "Test a model against its original, and judge it: exit code 3 when the gate does not pass.",
    "export": "Package a cut or healed model, with manifest and card.",
    "verify": "Re-check an exported checkpoint: hashes, loading, finite weights, recorded logits.",
    "compare": "Several checkpoints side by side: quality, cost, depth use, width, the Pareto front.",
    "report": "Write the report of a finished run again, or of steps run one by one.",
    "run": "The whole path: analyze, plan, cut, heal, eval, gate, export, report.",
    "demo": "`run` on the embedded model: trained to add, to follow chains and to answer about stories.",
}
"""Name -> help line, in the order of the help; `prune.cli.commands.NAME.command` does the work."""

MODULES = {"import": "import_gguf"}
"""Commands whose name is no name in Python: their module's and function's."""


def build(arguments: Sequence[str]) -> typer.Typer:
    """The application for one command line (without the program's name)."""
    app = typer.Typer(
        name="prune",
        help="Measure which layers of a language model earn their keep, remove the others, heal, prove it, export.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        # Rich's table cuts long flag names off where it is narrow; a name must be readable.
        rich_markup_mode="rich" if shutil.get_terminal_size().columns >= WIDE else None,
        # Flags may be written with - for _.
        context_settings={
            "token_normalize_func": lambda name: name.replace("-", "_"),
            "help_option_names": ["-h", "--help"],
        },
    )
    app.callback(invoke_without_command=True)(_version)
    asked = next((a for a in arguments if not a.startswith("-")), None)
    for name, line in COMMANDS.items():
        app.command(name, help=line, short_help=line)(_command(name) if name == asked else _stub)
    return app


def _command(name: str) -> Callable[..., Any]:
    command: Callable[..., Any] = importlib.import_module(f"prune.cli.commands.{MODULES.get(name, name)}").command

    @functools.wraps(command)
    def followed(**arguments: Any) -> Any:
        from evals.progress import shown, stage

        with shown(not arguments.get("quiet")), stage(name):
            return command(**arguments)

    return followed


def _stub() -> None:
    """Stands for a command that was not asked for."""


def _version(version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False) -> None:
    if version:
        from prune.versions import prune_version

        print(prune_version())
        raise typer.Exit
