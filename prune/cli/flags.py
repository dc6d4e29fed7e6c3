"""Flags that several commands share, and flags made from a settings model, so that no option is described twice."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prune.errors import UsageError

if TYPE_CHECKING:
    from pydantic import BaseModel

DATA_HELP = (
    "Documents of one domain, NAME=PATH; may be repeated. .txt (separated by a line <|endoftext|>, or by blank lines "
    "when there is none), .jsonl, .json, .csv, .tsv or .parquet (text, prompt + completion, messages, input_ids, or "
    "the columns of GSM8K or MATH; optional difficulty), or a hub data set org/name[:split]. Text gets exactly the "
    "special tokens that the tokenizer adds."
)

Model = Annotated[str, typer.Argument(metavar="MODEL", help="Directory, hub id, or `embedded` for the demo model.")]
Output = Annotated[str, typer.Option("--output", "-o", help="New directory to write.")]
DataFlag = Annotated[list[str], typer.Option("--data", help=DATA_HELP)]
Weights = Annotated[
    str | None,
    typer.Option(
        "--domain_weights", help="Weight of each domain, as general=0.5,math=0.5.", show_default="all weigh the same"
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="Of every random choice.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print nothing but errors (and JSON when asked for).")]
DryRun = Annotated[bool, typer.Option("--dry_run", help="Check the input, say what would be done, write nothing.")]
Lang = Annotated[str, typer.Option("--lang", help="Language of the page, en or ja.")]
Dtype = Annotated[str, typer.Option("--dtype", help="Of the computation: auto, float32, bfloat16, float16.")]
Revision = Annotated[str | None, typer.Option("--revision", help="Of a hub id.")]
RemoteCode = Annotated[bool, typer.Option("--trust_remote_code", help="Run the repository's own modelling code.")]


def parse_weights(text: str | None, flag: str = "--domain_weights") -> dict[str, float] | None:
    """`general=0.5,math=0.5` as a mapping.

    Raises:
        UsageError: no number, or no name.
    """
    if not text:
        return None
    weights = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        try:
            weights[name.strip()] = float(value)
        except ValueError:
            raise UsageError(f"{flag} {text!r}: write NAME=NUMBER,NAME=NUMBER") from None
    return weights


def split_names(text: str | None) -> list[str] | None:
    """`a,b` as a list; None stays None."""
    return [part.strip() for part in text.split(",") if part.strip()] if text else None


def with_settings(model: type[BaseModel]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command one flag per field of a settings model; it receives them as keyword arguments.

    A list is written with commas. A flag that is not given is not passed, so the model's own default holds.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        fields = model.model_fields
        own = [p for p in inspect.signature(command).parameters.values() if p.kind is not p.VAR_KEYWORD]
        hints = typing.get_type_hints(command, include_extras=True)
        flags = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=Annotated[
                    _flag_type(field.annotation) | None,  # type: ignore[operator]
                    typer.Option(
                        f"--{name}/--no_{name}" if _flag_type(field.annotation) is bool else f"--{name}",
                        help=field.description or "",
                        show_default=_shown(field),
                    ),
                ],
            )
            for name, field in fields.items()
        ]

        def wrapper(**values: Any) -> Any:
            for name, field in fields.items():
                value = values.pop(name, None)
                if value is not None:
                    values[name] = split_names(value) if _is_list(field.annotation, value) else value
            return command(**values)

        keyword = [p.replace(kind=p.KEYWORD_ONLY, annotation=hints[p.name]) for p in own]
        wrapper.__signature__ = inspect.Signature([*keyword, *flags])  # type: ignore[attr-defined]
        wrapper.__annotations__ = {p.name: p.annotation for p in [*keyword, *flags]}
        wrapper.__doc__, wrapper.__name__ = command.__doc__, command.__name__
        return wrapper

    return decorate


def _is_list(annotation: Any, value: Any) -> bool:
    """Whether a flag's text stands for a list: commas or a number say so, or there is nothing else that it could be."""
    options = _alternatives(annotation)
    if not any(typing.get_origin(o) is list for o in options):
        return False
    text = any(o is str or typing.get_origin(o) is typing.Literal for o in options)
    return not text or "," in value or value.isdigit()


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    """`a | b` as its parts, whether the annotation is evaluated as `X | Y` or as `Union`."""
    is_union = isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union
    return typing.get_args(annotation) if is_union else (annotation,)


def _flag_type(annotation: Any) -> type:
    options = _alternatives(annotation)
    plain = [o for o in options if o in (bool, int, float)]
    return plain[0] if plain and not any(typing.get_origin(o) is list for o in options) else str


def _shown(field: Any) -> str | bool:
    """The model's default for the help; nothing where the description says what an absent flag means."""
    value = field.get_default(call_default_factory=True)
    return False if value is None or value == [] else str(value)
