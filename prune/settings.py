"""Options with one home: a settings model beside what it sets, from which recipe, flags and keywords are made.

A field of a settings model (`AnalyzeSettings`, `HealSettings` ...) is the one place of an option: its name, type,
default, limits and meaning. A recipe section inherits the model; `prune.cli.flags.with_settings` makes the flags;
`takes` gives the Python function its keywords and their lines of documentation; `validated` reads them. Imports nothing
heavy. A list, a set of weights or a list of layers may be written as text, in Python and in a recipe as on the command
line.
"""

from __future__ import annotations

import inspect
import textwrap
import types
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.config import JsonDict

from prune.errors import UsageError, nearest

Function = TypeVar("Function", bound=Callable[..., Any])
Model = TypeVar("Model", bound=BaseModel)

DATA: JsonDict = {"group": "data"}
METHOD: JsonDict = {"group": "method"}
TRAINING: JsonDict = {"group": "training"}
OUTPUT: JsonDict = {"group": "output"}
ADVANCED: JsonDict = {"group": "advanced"}
"""Groups of the help: `Field(..., json_schema_extra=DATA)`; a field without one stands among the first."""


class Settings(BaseModel):
    """Options of one subject; unknown ones and numbers that are not finite are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Seeded(Settings):
    """What draws at random."""

    seed: int = Field(0, description="Of every random choice.", json_schema_extra=ADVANCED)


def _split(value: Any) -> Any:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _weights(value: Any) -> Any:
    if value is None:
        return {}
    if not isinstance(value, str):
        return value
    pairs = (part.partition("=") for part in value.split(",") if part.strip())
    try:
        return {name.strip(): float(number) for name, _, number in pairs}
    except ValueError:
        raise ValueError("write NAME=NUMBER,NAME=NUMBER") from None


Names = Annotated[list[str], BeforeValidator(_split)]
"""`["a", "b"]` or `a,b`."""
Numbers = Annotated[list[int], BeforeValidator(_split)]
"""`[1, 2]` or `1,2`."""
Weights = Annotated[dict[str, Annotated[float, Field(ge=0)]], BeforeValidator(_weights)]
"""`{"general": 0.5, "math": 0.5}` or `general=0.5,math=0.5`; empty where all weigh the same."""


def validated(model: type[Model], values: Mapping[str, Any]) -> Model:
    """Settings from keyword arguments.

    Raises:
        UsageError: an unknown name, a wrong value, or a contradiction; names the first.
    """
    try:
        return model(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else ""  # what follows is pydantic's own branch of a union
        if first["type"] == "extra_forbidden":
            raise UsageError(f"unknown argument {nearest(name, list(model.model_fields))}") from None
        message = first["msg"].removeprefix("Value error, ")
        raise UsageError(f"--{name}{_given(first['input'], message)}: {message}" if name else message) from None


def fields_of(model: type[BaseModel], values: BaseModel) -> dict[str, Any]:
    """The values of one model's fields, out of a model that inherits it."""
    return {name: getattr(values, name) for name in model.model_fields}


def _given(value: Any, message: str) -> str:
    """A wrong value as the user wrote it, where the message does not show it already."""
    if isinstance(value, list | tuple):
        value = ",".join(map(str, value))
    known = isinstance(value, str | int | float) and repr(value) not in message
    return f" {value!r}" if known else ""


def takes(model: type[BaseModel]) -> Callable[[Function], Function]:
    """Show a function's `**settings` as what they are: one keyword per field, in its signature and its docstring."""

    def decorate(function: Function) -> Function:
        own = [p for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_KEYWORD]
        taken = {p.name for p in own}
        fields = {name: field for name, field in model.model_fields.items() if name not in taken}
        keywords = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty
                if field.is_required()
                else field.get_default(call_default_factory=True),
                annotation=_readable(field.annotation, field.metadata),
            )
            for name, field in fields.items()
        ]
        returns = inspect.signature(function).return_annotation
        signature = inspect.Signature([*own, *keywords], return_annotation=returns)
        function.__signature__ = signature  # type: ignore[attr-defined]
        function.__doc__ = _documented(inspect.getdoc(function) or "", fields)
        return function

    return decorate


def alternatives(annotation: Any) -> tuple[Any, ...]:
    """`a | b` as its parts, whether the annotation is evaluated as `X | Y` or as `Union`."""
    is_union = isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union
    return typing.get_args(annotation) if is_union else (annotation,)


def _readable(annotation: Any, metadata: typing.Iterable[Any] = ()) -> Any:
    """A type as a reader wants it: without limits and validators, and with `str` where text is understood."""
    if typing.get_origin(annotation) is Annotated:
        annotation, *metadata = typing.get_args(annotation)
    parts = alternatives(annotation)
    if len(parts) > 1:
        plain: Any = typing.Union[tuple(_readable(part) for part in parts)]  # noqa: UP007 (made at run time)
    elif typing.get_args(annotation) and typing.get_origin(annotation) in (list, dict):
        inner = tuple(_readable(part) for part in typing.get_args(annotation))
        plain = types.GenericAlias(typing.get_origin(annotation), inner)
    else:
        plain = annotation
    return str | plain if any(isinstance(m, BeforeValidator) for m in metadata) else plain


def _documented(text: str, fields: Mapping[str, Any]) -> str:
    """A docstring with a line for every field, after those of its own arguments."""
    lines = text.splitlines()
    added = []
    for name, field in fields.items():
        said = f"{name}: {field.description or ''}"
        added += textwrap.wrap(said, 116, initial_indent=" " * 4, subsequent_indent=" " * 8)
    begin = lines.index("Args:")
    end = next((i for i in range(begin, len(lines)) if not lines[i].strip()), len(lines))
    return "\n".join([*lines[:end], *added, *lines[end:]])
