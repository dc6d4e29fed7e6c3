"""`prune draft`: from a model and prompts to a checkpoint that makes it faster without changing its answers."""

from __future__ import annotations

import json
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.checkpoint.depth_fields import depth_of
from prune.checkpoint.source import Source
from prune.drafting import RECORD
from prune.drafting.measure import facts_of, measure, tokens_of, warnings_of
from prune.drafting.search import Found, Search
from prune.drafting.served import Served, serves
from prune.drafting.settings import DraftSettings
from prune.errors import PruneError
from prune.files import sha256_json, staged_directory, write_json
from prune.wording import message
from prune.wording.text import english

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from prune.healing.prompts import Prompt

UNTAUGHT = ("save_steps", "runtime", "speedup", "num_assistant_tokens")
"""Settings on which the trained weights do not depend."""


@dataclass
class Pair:
    """A draft and what it does for its original.

    Attributes:
        found: the draft in memory.
        facts: `draft.json`.
        checkpoint: the draft on disk, in the working directory; None for a model in memory.
        gguf: its file for llama.cpp, there too.
    """

    found: Found
    facts: dict[str, Any]
    checkpoint: Path | None = None
    gguf: Path | None = None


def split_prompts(prompts: Sequence[Prompt], settings: DraftSettings) -> tuple[list[Prompt], list[Prompt]]:
    """(measured, trained on) of one domain: drawn with the seed, none in both, at most half of them measured.

    Raises:
        PruneError: fewer than two different prompts.
    """
    distinct = list({p.input_ids: p for p in prompts}.values())
    domain = prompts[0].domain
    if len(distinct) < 2:
        raise PruneError(f"--data {domain}: one prompt is too few: some are trained on, others measured")
    random.Random(f"{settings.seed}/{domain}").shuffle(distinct)
    count = min(settings.num_prompts, len(distinct) // 2)
    training = distinct[count:]
    return distinct[:count], training[: settings.train_prompts or len(training)]


def make_pair(
    original: PreTrainedModel,
    tokenizer: Any,
    prompts: Mapping[str, Sequence[Prompt]],
    settings: DraftSettings,
    *,
    pad_token_id: int,
    identity: str,
    directory: Path,
    source: Source | None = None,
) -> Pair:
    """Search, train and measure.

    Args:
        original: in evaluation mode.
        prompts: by domain.
        identity: hash of the original.
        directory: for what a killed run goes on from.
        source: the original's checkpoint; without it no draft is written there, and transformers measures.

    Raises:
        PruneError: no candidate can give what is wanted, or see `Search`.
    """
    from prune.versions import library_versions

    began, key = time.monotonic(), sha256_json([identity, settings.model_dump(exclude=set(UNTAUGHT))])
    parts = {name: split_prompts(members, settings) for name, members in prompts.items()}
    measured = {name: part[0] for name, part in parts.items()}
    training = {name: part[1] for name, part in parts.items()}
    served = None
    if source is not None and serves(settings.runtime):
        room = max(len(p.input_ids) for members in prompts.values() for p in members) + settings.max_new_tokens
        served = Served(settings.runtime, source, directory, room, settings.draft_type)
    search = Search(original, tokenizer, pad_token_id, measured, training, settings, directory, identity, key, served)
    found = search.run()
    trained_s = time.monotonic() - began
    checkpoint = None if source is None else write_draft(found, source, directory)
    if served is not None and checkpoint is not None:
        tokens = {name: tokens_of(found, name, settings) for name in measured}
        costs = found.chosen.costs
        results = served.measure(original, checkpoint, measured, tokens, settings, costs=costs, key=key)
    else:
        results = measure(original, found, measured, settings, directory, key)
    gguf = served.gguf(checkpoint) if served is not None and checkpoint is not None else None
    warnings = warnings_of(found, results)
    if served is None and settings.runtime != "transformers":
        warnings.append(message("draft_not_run_there", runtime=settings.runtime))
    versions = library_versions()
    facts = {
        **facts_of(found, results),
        "trained_layers": _trained_layers(found) if found.losses else [],
        "source_layers": original.config.get_text_config().num_hidden_layers,
        "training": {
            "prompts": {name: len(p) for name, p in training.items()},
            "answer_tokens": found.tokens,
            "steps": len(found.losses),
            "first_loss": found.losses[0] if found.losses else None,
            "last_loss": statistics.mean(found.losses[-20:]) if found.losses else None,
            "seconds": round(trained_s, 1),
        },
        "warnings": [english(m) for m in warnings],
        "runtime": settings.runtime,
        "gguf": None if gguf is None else f"draft-{settings.draft_type}.gguf",
        "measured_with": f"{served.runtime} {served.version}"
        if served
        else f"transformers {versions.get('transformers', '?')}",
        "settings": settings.model_dump(),
        "memory": _memory(original, found),
        "versions": versions,
    }
    return Pair(found, facts, checkpoint, gguf)


def _trained_layers(found: Found) -> list[int]:
    """Source indices."""
    from prune.model.layer_list import find_layer_list

    path, layers = find_layer_list(found.draft.model)
    prefixes = [f"{path}.{i}." for i in range(len(layers))]
    return [
        found.draft.keep[i]
        for i, prefix in enumerate(prefixes)
        if any(name.startswith(prefix) for name in found.draft.trained)
    ]


def _memory(original: PreTrainedModel, found: Found) -> dict[str, Any]:
    """Bytes of the weights of both, as two checkpoints that are loaded, and of their caches per token."""
    from evals.cost import footprint

    both = {"original": footprint(original).to_dict(), "draft": footprint(found.draft.model).to_dict()}
    return {**both, "pair_bytes": both["original"]["bytes"] + both["draft"]["bytes"]}


def require_cuttable(source: Source, candidates: Sequence[Sequence[int]]) -> None:
    """Find out before anything is trained whether a family can be cut exactly.

    Raises:
        PruneError: it cannot.
    """
    from prune.surgery.cut import cut

    with tempfile.TemporaryDirectory(prefix="prune-draft-") as hidden:
        for keep in (keep for keep in candidates if len(keep) < depth_of(source.checkpoint.config)):
            cut(source, Path(hidden) / "cut", keep_layers=list(keep), dry_run=True)


def write_draft(found: Found, source: Source, directory: Path) -> Path:
    """The draft as a checkpoint like its original's: `draft` in the working directory.

    Raises:
        PruneError: the family cannot be cut exactly.
    """
    from prune.packaging.saving import save_like
    from prune.surgery.cut import cut

    draft, template, written = found.draft, directory / "cut", directory / "draft"
    whole = len(draft.keep) == depth_of(source.checkpoint.config)
    for old in (template, written):
        shutil.rmtree(old, ignore_errors=True)
    if not whole:
        cut(source, template, keep_layers=list(draft.keep))
    written.mkdir()
    trained = draft.trained if found.losses else ()
    save_like(draft.model, trained, source if whole else template, written)
    shutil.rmtree(template, ignore_errors=True)
    return written


def write_pair(pair: Pair, output: Path) -> None:
    """The draft's checkpoint with `draft.json` and a card; in one rename."""
    from prune.checkpoint.directory import read_config
    from prune.drafting.card import write_card

    assert pair.checkpoint is not None
    with staged_directory(output) as staging:
        shutil.copytree(pair.checkpoint, staging, dirs_exist_ok=True)
        if pair.gguf is not None:
            shutil.copyfile(pair.gguf, staging / pair.facts["gguf"])
        write_json(staging / RECORD, pair.facts)
        write_card(staging, {**pair.facts, "config": json.loads(json.dumps(read_config(staging)))})
