"""A model as a caller gives it: the name of a checkpoint, or an object in memory; the functions take either alike.

What is named is resolved once and loaded when it is asked for. What is in memory is used as it is, in its own dtype and
on its own device, and left in the mode in which it came.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from prune.checkpoint.source import Source, resolve, resolve_all
from prune.data.domains import pad_token
from prune.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Model: TypeAlias = "str | Path | PreTrainedModel"
"""Directory, hub id (`org/name`, `org/name@revision`), `embedded`, or a loaded causal language model."""


@dataclass
class Given:
    """A model and its tokenizer, wherever they are.

    Attributes:
        label: what results call the model: its directory or id; of a loaded one what it says it was loaded from.
        source: its checkpoint; None where it is in memory.
        in_memory: the caller's object; None where it is a checkpoint.
    """

    label: str
    source: Source | None
    in_memory: PreTrainedModel | None
    _tokenizer: Any = field(default=None, repr=False)

    def model(self, device: str | None = None) -> PreTrainedModel:
        """The caller's object, or the checkpoint loaded anew.

        Raises:
            PruneError: see `prune.model.loading.load_model`.
        """
        if self.in_memory is not None:
            return self.in_memory
        from prune.model.loading import load_model

        assert self.source is not None
        return load_model(self.source, device=device)

    @property
    def tokenizer(self) -> Any:
        """The caller's, else the checkpoint's; of a model in memory without one, an object that says so when asked.

        Raises:
            PruneError: the checkpoint has none.
        """
        if self._tokenizer is None:
            if self.source is None:
                return NoTokenizer(self.in_memory)
            from prune.model.loading import load_tokenizer

            self._tokenizer = load_tokenizer(self.source)
        return self._tokenizer

    @property
    def has_own_tokenizer(self) -> bool:
        """Whether there is one to compare with."""
        from prune.model.loading import has_tokenizer

        return self._tokenizer is not None or (self.source is not None and has_tokenizer(self.source))

    def require_tokenizer(self) -> Any:
        """The tokenizer, where nothing can be done without one.

        Raises:
            UsageError: a model in memory came without.
        """
        return self.tokenizer.required() if isinstance(self.tokenizer, NoTokenizer) else self.tokenizer

    @property
    def pad_token_id(self) -> int:
        """The token that pads: the tokenizer's own, else its end of text, else 0. Never counted anywhere."""
        return pad_token(self.tokenizer)

    def require_unchanged(self) -> None:
        """Refuse results of a checkpoint whose files were replaced meanwhile."""
        if self.source is not None:
            self.source.require_unchanged()


class NoTokenizer:
    """Stands in for the tokenizer of a loaded model that came without: token ids need none, text does."""

    chat_template = None

    def __init__(self, model: PreTrainedModel | None) -> None:
        config = getattr(model, "config", None)
        self.pad_token_id = getattr(config, "pad_token_id", None)
        end = getattr(config, "eos_token_id", None)
        self.eos_token_id = end[0] if isinstance(end, list) else end

    def required(self) -> Any:
        raise UsageError("tokenizer is missing: a loaded model comes without one; give tokenizer, or rows of input_ids")

    def __call__(self, *_: Any, **__: Any) -> Any:
        self.required()


def given(
    model: Model | Source,
    tokenizer: Any = None,
    *,
    revision: str | None = None,
    **options: Any,
) -> Given:
    """What the functions work on.

    Args:
        model: a checkpoint's name, or a loaded model.
        tokenizer: a loaded tokenizer, or the name of a checkpoint that has one; the model's own if None.
        revision, options: of a checkpoint, see `prune.checkpoint.source.resolve`.

    Raises:
        UsageError: neither a name nor a model, or a revision or a placement of a loaded model; and as for `resolve`.
    """
    permissions = {name: options[name] for name in ("trust_remote_code", "allow_links") if name in options}
    if isinstance(tokenizer, str | Path):
        from prune.model.loading import load_tokenizer

        tokenizer = load_tokenizer(tokenizer, **permissions)
    if isinstance(model, str | Path | Source):
        source = resolve(model, revision=revision, **options)
        return Given(source.id, source, None, tokenizer)
    if not callable(getattr(model, "forward", None)) or not hasattr(model, "config"):
        kind = type(model).__name__
        raise UsageError(f"model: is {kind}; give a directory, a hub id, or a loaded transformers model")
    if revision is not None:
        raise UsageError(f"--revision {revision}: the model is loaded already; only a hub id has revisions")
    if options.get("attn_implementation") is not None:
        raise UsageError(
            f"--attn_implementation {options['attn_implementation']}: the model is loaded already; call its"
            " set_attn_implementation, or give its directory"
        )
    if options.get("device_map") is not None:
        raise UsageError(f"--device_map {options['device_map']}: the model is loaded already, on devices of its own")
    return Given(str(model.config.name_or_path or type(model).__name__), None, model, tokenizer)


def all_given(
    models: Mapping[str, Model], tokenizers: Mapping[str, Any], *, revision: str | None = None, **options: Any
) -> dict[str, Given]:
    """Several models under names of the caller's; `revision` is of every hub id that does not name its own.

    Args:
        models: names and loaded models, mixed as the caller likes.
        tokenizers: those that the caller gave, by the same names.
        revision, options: see `given`.

    Raises:
        UsageError: a revision, but no hub id; and as for `given`.
    """
    written = {name: model for name, model in models.items() if isinstance(model, str | Path)}
    if revision is not None and not written:
        raise UsageError(f"--revision {revision}: there is no hub id for it; loaded models have no revisions")
    sources = resolve_all(written, revision=revision, **options)
    return {name: given(sources.get(name, model), tokenizers.get(name), **options) for name, model in models.items()}


@contextmanager
def at_rest(*models: PreTrainedModel | None) -> Iterator[None]:
    """In evaluation mode, as measuring needs it; afterwards every module is again in the mode in which it was."""
    training = [module for model in models if model is not None for module in model.modules() if module.training]
    for model in models:
        if model is not None:
            model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
