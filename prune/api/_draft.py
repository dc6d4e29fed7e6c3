"""`prune.draft`: a few of the model's own layers, trained to propose what it then says."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.served_drafts import SERVED
from prune.api._given import Given, Model, at_rest, given
from prune.api._inputs import Data, DryRun, check_files
from prune.drafting.settings import DraftSettings
from prune.errors import PruneError, UsageError
from prune.files import claim, refuse_non_empty
from prune.model.settings import ModelSettings
from prune.settings import fields_of, takes, validated

BESIDE = 1.4
"""Memory of a pair, in the original's weights: a draft has at most four tenths of the layers."""

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from prune.checkpoint.source import Source
    from prune.healing.prompts import Prompt


class DraftArguments(ModelSettings, DraftSettings):
    """Everything that `prune draft` can be told beside the model, the prompts and the output."""


class DraftPair(dict[str, Any]):
    """What was measured: `domains` (acceptance, γ, speed-ups), `candidates`, `keep`, `draft_cost`, `ceiling` ...

    Attributes:
        model: the draft, in memory; it shares its first layers with the original.
    """

    def __init__(self, facts: dict[str, Any], model: PreTrainedModel) -> None:
        super().__init__(facts)
        self.model = model


@takes(DraftArguments)
def draft(
    model: Model,
    output: str | Path | None = None,
    *,
    data: Data,
    tokenizer: Any = None,
    resume: bool = False,
    dry_run: bool = False,
    **settings: Any,
) -> DraftPair | DryRun:
    """A draft model that makes the original faster and leaves every answer as it is (speculative decoding).

        pair = prune.draft(model, data={"math": [{"prompt": "1 + 1 ="}, ...]}, tokenizer=tokenizer)
        model.generate(**inputs, assistant_model=pair.model)

    Args:
        model: the original; directory, hub id, `embedded`, or a loaded model, which stays as it is.
        output: new directory for the draft's checkpoint, its card and `draft.json`; nothing is written if None.
        data: prompts by domain, as for `prune.generate`; some are trained on, the others measured.
        tokenizer: of a loaded model; the checkpoint's own if None.
        resume: go on with what a killed run left.
        dry_run: check the input and return what would be done.

    Returns:
        What was measured, with the draft as `model`.

    Raises:
        UsageError, PruneError: bad input; the output does not exist then.
    """
    target = None if output is None else Path(output)
    if target is None and resume:
        raise UsageError("resume: goes with output; in memory nothing is left to go on with")
    if target is not None:
        refuse_non_empty(target)
    asked = validated(DraftArguments, settings)
    chosen = DraftSettings(**fields_of(DraftSettings, asked))
    files = check_files(data)
    subject = given(model, tokenizer, **fields_of(ModelSettings, asked))
    if target is not None and subject.source is None:
        raise UsageError("output: the draft of a loaded model stays in memory; write it with save_pretrained")
    if chosen.runtime in SERVED and target is None:
        raise UsageError(f"--runtime {chosen.runtime} reads a checkpoint: give output and a model's directory or name")
    config = _config(subject)
    from prune.drafting.candidates import choose_layers
    from prune.drafting.pair import require_cuttable
    from prune.drafting.reading import draft_prompts
    from prune.drafting.runtimes import require_usable

    require_usable(chosen.runtime, config.to_dict(), target.name if target else "")
    layers = choose_layers(config.get_text_config().num_hidden_layers, chosen)
    if subject.source is not None:
        require_cuttable(subject.source, layers)
    prompts = {
        name: draft_prompts(name, source, subject.require_tokenizer(), chosen, config) for name, source in files.items()
    }
    if dry_run:
        return DryRun(candidates=layers, prompts={name: len(found) for name, found in prompts.items()})
    if target is None:
        with tempfile.TemporaryDirectory(prefix="prune-draft-") as hidden:
            facts, trained = _make(subject, prompts, chosen, Path(hidden), None)
            return DraftPair(facts, trained)
    working = target.with_name(f".{target.name}.drafting")
    if working.exists() and not resume:
        raise UsageError(f"{working} is an unfinished run: add --resume to go on with it, or remove it to start over")
    with _working(working):
        facts, trained = _make(subject, prompts, chosen, working, target)
    return DraftPair(facts, trained)


@contextmanager
def _working(directory: Path) -> Iterator[None]:
    """A directory for what a killed run goes on from; it stays after a failure where it holds answers."""
    directory.mkdir(parents=True, exist_ok=True)
    lock = claim(directory, f"{directory}: another process is at work there")
    try:
        yield
        shutil.rmtree(directory)
    except BaseException:
        if not any(directory.glob("*.batches")):
            shutil.rmtree(directory, ignore_errors=True)
        raise
    finally:
        os.close(lock)


def _config(subject: Given) -> Any:
    from prune.model.loading import load_config

    return load_config(subject.source) if subject.source else subject.model().config


def _require_memory(source: Source) -> None:
    """Refuse a model that leaves no room for a draft beside it.

    Raises:
        PruneError: with what it takes and what is free.
    """
    import torch

    from evals.fitted import free_memory

    item = 2 if source.dtype in ("bfloat16", "float16") else 4
    size = sum(item * math.prod(tensor.entry.shape) for tensor in source.checkpoint.tensors.values())
    free = free_memory(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    if size * BESIDE > free:
        raise PruneError(
            f"{source.id}: original and draft take {size * BESIDE / 1e9:.1f} GB of memory and {free / 1e9:.1f} GB are "
            "free: give --dtype bfloat16, or use a machine with more"
        )


def _make(
    subject: Given, prompts: dict[str, list[Prompt]], settings: DraftSettings, working: Path, target: Path | None
) -> tuple[dict[str, Any], PreTrainedModel]:
    from evals.fingerprint import fingerprint
    from prune.drafting.pair import make_pair, write_pair

    if subject.source is not None:
        _require_memory(subject.source)
    original = subject.model()
    identity = subject.source.sha256 if subject.source else fingerprint(original, subject.tokenizer)
    with at_rest(original):
        pair = make_pair(
            original,
            subject.require_tokenizer(),
            prompts,
            settings,
            pad_token_id=subject.pad_token_id,
            identity=f"{identity}/{original.dtype}",
            directory=working,
            source=None if target is None else subject.source,
        )
    subject.require_unchanged()
    pair.facts["source"] = subject.source.label if subject.source else subject.label
    pair.facts["revision"] = subject.source.revision if subject.source else None
    pair.facts["source_sha256"] = subject.source.sha256 if subject.source else None
    if target is not None and subject.source is not None:
        write_pair(pair, target)
    return pair.facts, pair.found.draft.model
