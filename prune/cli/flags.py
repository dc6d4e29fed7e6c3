"""Flags that several commands share, and flags made from a settings model, so that no option is described twice."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from itertools import starmap
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prune.settings import alternatives

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

PANELS = {
    "data": "Data",
    "method": "Method",
    "training": "Training",
    "output": "Output",
    "advanced": "Advanced",
}
"""Groups of options in the help, in their order."""

DATA_HELP = (
    "Documents of one domain, NAME=PATH; may be repeated. .txt (separated by a line <|endoftext|>, or by blank lines "
    "when there is none), .jsonl, .json, .csv, .tsv or .parquet (text, prompt + completion, messages, input_ids, or "
    "the columns of GSM8K or MATH; optional difficulty), or a hub data set org/name[:split]. Text gets exactly the "
    "special tokens that the tokenizer adds."
)

Model = Annotated[str, typer.Argument(metavar="MODEL", help="Directory, hub id, or `embedded` for the demo model.")]
Output = Annotated[str, typer.Option("--output", "-o", help="New directory to write.")]
DataFlag = Annotated[list[str], typer.Option("--data", help=DATA_HELP)]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.", rich_help_panel=PANELS["output"])]
Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet", help="Print nothing but errors (and JSON when asked for).", rich_help_panel=PANELS["output"]
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry_run", help="Check the input, say what would be done, write nothing.", rich_help_panel=PANELS["output"]
    ),
]


def split_names(text: str | None) -> list[str] | None:
    """`a,b` as a list; None stays None."""
    return [part.strip() for part in text.split(",") if part.strip()] if text else None


def with_settings(model: type[BaseModel]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command one flag per field of a settings model; it receives them as keyword arguments.

    Type, default, limits, help and group come from the field. A list is written with commas, or by repeating the flag
    (under the name `flag`, if given) where the field says `repeat`; other text is read by the field's own validators.
    The help shows ungrouped flags first, then one panel per group.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        own = [p for p in inspect.signature(command).parameters.values() if p.kind is not p.VAR_KEYWORD]
        hints = typing.get_type_hints(command, include_extras=True)
        taken = {p.name for p in own}
        fields = {name: field for name, field in model.model_fields.items() if name not in taken}

        def wrapper(**values: Any) -> Any:
            for name, field in fields.items():
                value = values.pop(name)
                if value is not None:
                    values[name] = split_names(value) if _is_list(field.annotation, value) else value
            return command(**values)

        keyword = [p.replace(kind=p.KEYWORD_ONLY, annotation=hints[p.name]) for p in own]
        made = sorted([*keyword, *starmap(_flag, fields.items())], key=_panel)
        wrapper.__signature__ = inspect.Signature(made)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {p.name: p.annotation for p in made}
        wrapper.__doc__, wrapper.__name__ = command.__doc__, command.__name__
        return wrapper

    return decorate


def _flag(name: str, field: FieldInfo) -> inspect.Parameter:
    """The parameter that Typer makes a flag of."""
    kind, extra = _flag_type(field.annotation), _extra(field)
    default = inspect.Parameter.empty if field.is_required() else _default(field)
    limits: dict[str, Any] = {}
    if kind in (int, float):
        limits = {"min" if hasattr(m, "ge") else "max": getattr(m, "ge", getattr(m, "le", None))
                  for m in field.metadata if hasattr(m, "ge") or hasattr(m, "le")}  # fmt: skip
    group, flag = extra.get("group"), extra.get("flag", name)
    option = typer.Option(
        f"--{flag}/--no_{flag}" if kind is bool else f"--{flag}",
        help=field.description or "",
        show_default=default is not None and default is not False,
        rich_help_panel=PANELS[group] if group else None,
        **limits,
    )
    annotation: Any = list[str] if extra.get("repeat") else kind
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[annotation | None, option]
    )


def _panel(parameter: inspect.Parameter) -> int:
    """Where a parameter stands in the help: what is required, what is ungrouped, then the groups in their order."""
    panel = parameter.annotation.__metadata__[0].rich_help_panel
    return [None, *PANELS.values()].index(panel)


def _extra(field: FieldInfo) -> dict[str, Any]:
    return field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}


def _is_list(annotation: Any, value: Any) -> bool:
    """Whether a flag's text stands for a list: commas or a number say so, or there is nothing else that it could be."""
    options = alternatives(annotation)
    if not isinstance(value, str) or not any(typing.get_origin(o) is list for o in options):
        return False
    text = any(o is str or typing.get_origin(o) is typing.Literal for o in options)
    return not text or "," in value or value.isdigit()


def _flag_type(annotation: Any) -> type:
    """bool, int or float where the field is nothing else; text otherwise, for the field's validators to read."""
    options = [o for o in alternatives(annotation) if o is not type(None)]
    return options[0] if len(options) == 1 and options[0] in (bool, int, float) else str


def _default(field: FieldInfo) -> Any:
    """The field's default as it would be written; None where nothing is written and the help says what that means."""
    value = field.get_default(call_default_factory=True)
    if isinstance(value, list):
        value = ",".join(map(str, value))
    return None if value in ("", {}) else value
