"""The application: which commands there are, and only the asked-for one loaded.

`prune --help` needs names and one line each, not a hundred flags; a command's module is imported when it is called.
"""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from prune.cli.help import WIDE, GroupedCommand, columns

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
    "suites": "What there is to test on: suites of tasks, and where the files of each task come from.",
    "criteria": "What there is to plan with: criteria that score layers, strategies that choose among subsets.",
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
        pretty_exceptions_enable=False,
        rich_markup_mode="rich" if columns() >= WIDE else None,
        context_settings={
            "token_normalize_func": _with_underscores,
            "help_option_names": ["-h", "--help"],
            "max_content_width": columns(),
        },
    )
    app.callback(invoke_without_command=True)(_version)
    asked = next((a for a in _completed() or arguments if not a.startswith("-")), None)
    for name, line in COMMANDS.items():
        module = _module(name) if name == asked else None
        command = app.command(name, cls=GroupedCommand, help=line, short_help=line, epilog=_epilog(module))
        command(_command(name, module) if module else _stub)
    return app


def _with_underscores(name: str) -> str:
    """Flags may be written with - for _."""
    return name.replace("-", "_")


def _completed() -> list[str]:
    """The words of a line that a shell wants to complete, without the program's name; nothing where none asks."""
    line = os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS") or ""
    return line.split()[1:] if "_PRUNE_COMPLETE" in os.environ else []


def _module(name: str) -> Any:
    return importlib.import_module(f"prune.cli.commands.{MODULES.get(name, name)}")


def _epilog(module: Any) -> str | None:
    """What a command's help says below its flags."""
    said: Callable[[], str] | None = getattr(module, "epilog", None)
    return said() if said else None


def _command(name: str, module: Any) -> Callable[..., Any]:
    command: Callable[..., Any] = module.command

    @functools.wraps(command)
    def followed(**arguments: Any) -> Any:
        from evals.progress import shown, stage

        with shown(not arguments.get("quiet")), stage(name, item=_subject(arguments)):
            return command(**arguments)

    return followed


def _subject(arguments: dict[str, Any]) -> str:
    """What a command works on, by its last name, for the line that says how far it is."""
    named = (arguments.get(name) for name in ("model", "analysis_or_model", "recipe"))
    return os.path.basename(str(next(filter(None, named), "")).rstrip("/"))


def _stub() -> None:
    """Stands for a command that was not asked for."""


def _version(version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False) -> None:
    if version:
        from prune.versions import prune_version

        print(prune_version())
        raise typer.Exit
