"""An option has one home: its name, default and limits are the same on the command line, in Python and in a recipe."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import pytest
import typer
from pydantic import BaseModel, Field
from pydantic_core import PydanticUndefined

import prune
from prune import cli
from prune.analysis.settings import AnalyzeSettings
from prune.cli.app import COMMANDS, build
from prune.cli.flags import with_settings
from prune.errors import UsageError
from prune.runs.recipe import Recipe
from prune.settings import Names, Settings, Weights, takes, validated

ARGUMENTS = {
    name: getattr(importlib.import_module(f"prune.api._{name}"), f"{name.capitalize()}Arguments")
    for name in (
        "analyze",
        "plan",
        "compensate",
        "cut",
        "draft",
        "generate",
        "teach",
        "heal",
        "eval",
        "export",
        "compare",
        "verify",
    )
}
RECIPE = {
    "analyze": ("analyze", "data", None),
    "plan": ("plan", "data", None),
    "generate": ("heal.self_generated",),
    "heal": ("heal",),
    "eval": ("eval", None),
    "export": ("export",),
    "compare": ("data", None),
}
"""Command -> sections of a recipe that hold its options; None is the top of the recipe."""


def default(model: type[BaseModel], name: str) -> Any:
    field = model.model_fields[name]
    return PydanticUndefined if field.is_required() else field.get_default(call_default_factory=True)


def flags(name: str) -> dict[str, Any]:
    """Option -> default, as Typer has them."""
    parameters = typer.main.get_command(build([name])).commands[name].params  # type: ignore[attr-defined]
    return {p.name: p.default for p in parameters}


def section(dotted: str | None) -> type[BaseModel]:
    found: Any = Recipe
    for part in dotted.split(".") if dotted else ():
        annotation = found.model_fields[part].annotation
        found = next(a for a in (annotation, *getattr(annotation, "__args__", ())) if hasattr(a, "model_fields"))
    return found


OPTIONS = [(command, name) for command, model in ARGUMENTS.items() for name in model.model_fields]


@pytest.mark.parametrize("command", ARGUMENTS)
def test_every_option_is_a_flag_and_a_keyword_with_one_default(command: str) -> None:
    model, on_the_line = ARGUMENTS[command], flags(command)
    keywords = inspect.signature(getattr(prune, command)).parameters
    for name in model.model_fields:
        value = default(model, name)
        assert keywords[name].default == value, name
        assert name in on_the_line, name
        if on_the_line[name] is None:
            assert value in (None, [], {}, ""), name
        else:  # what is passed without the flag is what the model would take
            assert getattr(validated(model, {name: on_the_line[name]}), name) == value, name


@pytest.mark.parametrize("command", RECIPE)
def test_a_recipe_has_the_same_defaults(command: str) -> None:
    model, found = ARGUMENTS[command], set()
    own = {"compare": {"batch_size", "size"}}.get(command, set())  # of all models in turn, so smaller
    for name in model.model_fields:
        for part in map(section, RECIPE[command]):
            if name in part.model_fields and name not in own:
                assert default(part, name) == default(model, name), name
                found.add(name)
                break
    assert found


def test_what_a_recipe_lacks_of_a_command_is_known() -> None:
    """A new option of a settings model is in the recipe, or it is named here."""
    lacking = {}
    for command in ("analyze", "plan", "heal", "eval"):
        had = {name for part in RECIPE[command] for name in section(part).model_fields}
        lacking[command] = ARGUMENTS[command].model_fields.keys() - had - Recipe.model_fields.keys()
    assert lacking == {
        "analyze": {"stream", "stream_memory", "lang"},
        "plan": {
            "num_layers", "drop_fraction", "target_params", "target_bytes", "target_speedup", "target_kv_bytes",
            "decode_context", "drop_layers", "keep_layers", "sweep", "score_cache", "lang", "stream", "stream_memory",
        },  # the recipe's `depths`
        "heal": {"seq_length", "kept_layers", "track_suites", "track_limit", "include_path", "local_data"},
        "eval": {"suite", "tasks", "backend", "base_url", "model_args"},  # the recipe's `suites`
    }  # fmt: skip


def test_a_new_field_is_a_flag_a_keyword_and_a_line_of_documentation() -> None:
    class Toy(AnalyzeSettings):
        toy: int = Field(7, ge=1, description="Toys per layer.")

    received: dict[str, Any] = {}

    @takes(Toy)
    def measure(model: str, **settings: Any) -> None:
        """Measure.

        Args:
            model: directory.

        Raises:
            UsageError: no.
        """
        received.update(settings)

    assert inspect.signature(measure).parameters["toy"].default == 7
    assert "    toy: Toys per layer.\n\nRaises:" in (inspect.getdoc(measure) or "")

    def command(**settings: Any) -> None:
        measure("m", **settings)

    app = typer.Typer()
    app.command()(with_settings(Toy)(command))
    typer.main.get_command(app)(["--toy", "9"], standalone_mode=False)
    assert received["toy"] == 9
    assert validated(Toy, received).toy == 9


class Sample(Settings):
    names: Names = Field([])
    weights: Weights = Field({})
    number: int = Field(1, ge=1)


def test_text_is_understood_where_a_list_or_weights_are_wanted() -> None:
    asked = validated(Sample, {"names": "a, b", "weights": "x=0.5,y=2"})
    assert (asked.names, asked.weights) == (["a", "b"], {"x": 0.5, "y": 2.0})
    assert validated(Sample, {"names": ("a",), "weights": None}).model_dump() == {
        "names": ["a"], "weights": {}, "number": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"nombers": 1}, "unknown argument 'nombers' .did you mean 'number'"),
        ({"number": 0}, "number 0: Input should be greater than or equal to 1"),
        ({"weights": "x"}, "weights 'x': write NAME=NUMBER,NAME=NUMBER"),
        ({"weights": {"x": -1}}, "weights -1"),
        ({"weights": {"x": float("nan")}}, "weights"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_the_option(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        validated(Sample, values)


def test_no_command_is_left_out() -> None:
    without = {"report", "run", "demo", "import", "suites", "criteria"}  # a handful of arguments of their own
    assert ARGUMENTS.keys() | without == COMMANDS.keys()


def test_an_error_names_the_argument_in_python_and_the_flag_on_the_command_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    error = UsageError("--num_layers 3: give more, or --protect fewer; `prune demo --show_recipe` prints a recipe")
    assert str(error) == "num_layers 3: give more, or protect fewer; `prune demo --show_recipe` prints a recipe"
    assert error.flagged.startswith("--num_layers 3: give more, or --protect fewer")

    def refuse(_: object) -> Any:
        raise UsageError("data x: no such file")

    app = build(["analyze"])
    monkeypatch.setattr("sys.argv", ["prune", "analyze", "m", "-o", "o", "--data", "x"])
    monkeypatch.setattr("prune.api.analyze", lambda *_, **__: refuse(0), raising=False)
    monkeypatch.setattr("prune.cli.app.build", lambda _: app)
    assert cli._run() == 2
    assert capsys.readouterr().err == "prune: --data x: no such file\n"
